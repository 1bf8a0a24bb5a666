"""Regularisers that empty whole groups of tied neurons, as optax transformations."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

from naivenas_jax.checks import as_number, shown
from naivenas_jax.errors import RequestError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.schedule.group_penalty import GroupPenalty
from naivenas_jax.typing import PyTree


def group_lasso(graph: Graph, strength: float | jax.Array) -> optax.GradientTransformation:
    """Add the gradient of a group lasso, whose groups are the classes of tied neurons, to the updates.

    For each class c of tied neurons let ``w_c`` be all entries of weights between neurons that make or read a neuron of
    c, each entry once. The penalty and its gradient are

        R = strength * sum_c sqrt(|w_c|) * ||w_c||_2
        dR/dw = strength * sum over the classes c of w of sqrt(|w_c|) * w / ||w_c||_2

    with ``|w_c|`` the number of entries, and 0 where the norm is 0. Of complex weights it is the conjugate, as
    `jax.grad` has it. Where neurons are combinations, such as features of heads, the classes of each factor are groups:
    a head, and a feature of all heads. Classes that may not change, and classes on inputs and outputs of the graph, are
    left out; so are biases, scales and statistics, and parameters of which a weight is a function that is not 0 at 0.

    Put it before the optimizer, as a penalty on the loss; or after it, before the learning rate, like decoupled decay.

    Args:
      graph: the network whose ``variables["params"]`` are optimised. After a mutation make it anew with the new graph;
        it has no state.
      strength: 0 or more; a traced number too, so that ``optax.inject_hyperparams`` can make it follow a schedule.

    Returns:
      A transformation; its ``update`` needs the parameters.

    Raises:
      GraphError: if ``graph`` is no graph.
      RequestError: if ``strength`` is negative or no number.

    Source: Yuan & Lin, Model Selection and Estimation in Regression with Grouped Variables, 2006; for the structure of
    networks, Wen et al., Learning Structured Sparsity in Deep Neural Networks, NeurIPS 2016.

    >>> import jax, optax, flax.linen as nn, jax.numpy as jnp, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 1)
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(1), nas.layer("hidden", nn.Dense(1), x)))
    >>> params = {"hidden": {"kernel": jnp.array([[3.0]]), "bias": jnp.ones(1)},
    ...           "out": {"kernel": jnp.array([[4.0]]), "bias": jnp.ones(1)}}
    >>> tx = nas.group_lasso(graph, 0.1)
    >>> zero = jax.tree.map(jnp.zeros_like, params)
    >>> round(float(tx.update(zero, tx.init(params), params)[0]["hidden"]["kernel"][0, 0]), 4)
    0.0849
    """
    penalty = GroupPenalty.of(graph, _number(strength, "strength"))

    def update(
        updates: PyTree, state: optax.OptState, params: PyTree | None = None, **_: object
    ) -> tuple[PyTree, optax.OptState]:
        return jax.tree.map(jnp.add, updates, penalty.gradient(_needed(params, "group_lasso"))), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def group_shrink(graph: Graph, amount: float | jax.Array) -> optax.GradientTransformation:
    """After the optimizer's step, shrink what makes each class of tied neurons: the proximal step of a group lasso.

    For each class c let ``w_c`` be all entries of weights that make a neuron of c, biases not among them. With the
    parameters p and the updates u that come in, and ``w = p + u``,

        w_c <- w_c * max(0, 1 - amount * sqrt(|w_c|) / ||w_c||_2),

    the exact minimiser of ``||v - w||^2 / 2 + amount * sum_c sqrt(|w_c|) * ||v_c||_2``, since no entry makes two
    classes. Groups become exactly zero. Put it last in the chain, with ``amount`` the learning rate times the strength.

    Args:
      graph: the network whose ``variables["params"]`` are optimised.
      amount: 0 or more; a traced number too.

    Returns:
      A transformation; its ``update`` needs the parameters.

    Raises:
      GraphError: if ``graph`` is no graph.
      RequestError: if ``amount`` is negative or no number, or an entry makes neurons of two classes (a head, and a
        feature of a head).

    Source: Parikh & Boyd, Proximal Algorithms, 2014, section 6.5.4.

    >>> import jax, optax, flax.linen as nn, jax.numpy as jnp, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 1)
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(1), nas.layer("hidden", nn.Dense(2), x)))
    >>> params = {"hidden": {"kernel": jnp.array([[3.0, 0.1]])}, "out": {"kernel": jnp.ones((2, 1))}}
    >>> tx = nas.group_shrink(graph, 0.5)
    >>> updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    >>> optax.apply_updates(params, updates)["hidden"]["kernel"].tolist()
    [[2.5, 0.0]]
    """
    penalty = GroupPenalty.of(graph, _number(amount, "amount"), makers=True)

    def update(
        updates: PyTree, state: optax.OptState, params: PyTree | None = None, **_: object
    ) -> tuple[PyTree, optax.OptState]:
        stepped = jax.tree.map(jnp.add, _needed(params, "group_shrink"), updates)
        return jax.tree.map(jnp.subtract, penalty.proximal(stepped), params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _needed(params: PyTree | None, name: str) -> PyTree:
    if params is None:
        raise RequestError(f"{name} needs the parameters: call tx.update(updates, state, params).")
    return params


def _number(value: object, what: str) -> float | jax.Array:
    if isinstance(value, jax.core.Tracer) and value.shape == ():
        return value
    number = as_number(value)
    if number is None or not 0 <= number < np.inf:
        raise RequestError(f"{what} must be a number of at least 0, found {shown(value)}.")
    return float(number)
