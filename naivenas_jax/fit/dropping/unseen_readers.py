"""What it costs to take neurons from weights that are out of sight: in loops, or computed from other variables.

Such weights are not re-fitted. With a gate m_c on neuron c where they read it, and S a sum of the outputs with random
signs, taking it away changes the outputs of the examples, to second order, by

    cost = 1/2 sum over examples of (dS / dm_c)^2,

in the mean over signs. Signs of different examples are independent, so that the square of the derivative by a whole
batch has this mean too: there is no need for the gradient of each example alone.

Source: gates of coupled neurons, Liu et al., Group Fisher Pruning, ICML 2021.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Shaped

from naivenas_jax.fit.network.data import Data
from naivenas_jax.fit.network.network import Network, on_device
from naivenas_jax.graph.evaluation.batches import Batch
from naivenas_jax.paths import Path
from naivenas_jax.transfer.variables import flat, nested
from naivenas_jax.typing import Array, Variables
from naivenas_jax.utility.scores.gates import Gate, computed_weights, gate_derivatives, gated, gates
from naivenas_jax.utility.tied import class_count, free_classes

#: So many sums with random signs are taken of all batches together: costs are known to a fifth.
DRAWS = 64


class UnseenCosts(NamedTuple):
    """What taking neurons away changes through weights that are out of sight.

    Attributes:
      read: of the neurons that such weights read; NaN of all others.
      made: of those that no weight reads and that are made out of sight; NaN of all others.
    """

    read: Float[np.ndarray, " classes"]
    made: Float[np.ndarray, " classes"]


def unseen_costs(
    network: Network, variables: Variables, data: Data, seen: Collection[Path], seed: int = 0
) -> UnseenCosts:
    """The costs of all neurons that weights which are not seen read, or make.

    Args:
      network: the network.
      variables: its variables.
      data: batches of inputs.
      seen: the weights that are seen.
      seed: of the signs.
    """
    ties, arrays = network.graph.ties, flat(variables)
    free = free_classes(ties)
    own = [
        gate
        for gate in gates(network.graph)
        if gate.path not in seen and free[gate.classes].any()
        if not {*ties.leaves[gate.path].looked_up}
        & {*gate.dims}  # what is not looked up on some batches may be on others
    ]
    total = np.full(class_count(ties), np.nan)
    reads = [gate for gate in own if any(ties.leaves[gate.path].roles[d] == "in" for d in gate.dims)]
    makes = [gate for gate in own if all(gate is not other for other in reads)]
    read, made = _gated(reads, len(total)), _gated(makes, len(total))
    if not own:
        return UnseenCosts(total, total)
    whole = {gate.path for gate in own if not jnp.issubdtype(jnp.result_type(arrays[gate.path]), jnp.inexact)}
    computed = tuple(sorted({gate.path for gate in own} & {*computed_weights(network.graph), *whole}))
    plain = tuple(sorted({gate.path for gate in own} - {*computed}))
    present, draws = on_device(variables), -(-DRAWS // data.number)
    squares = network.compiled(_squares, network, plain, computed)
    total = np.zeros(len(total))
    for number, inputs in enumerate(data):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), number), draws)
        found = np.asarray(squares(present, inputs, keys), np.float64)
        finite = np.isfinite(found)  # a batch whose gradients are not finite says nothing
        total += 0.5 * np.where(finite, found, 0.0).sum(0) / np.maximum(finite.sum(0), 1)
    return UnseenCosts(np.where(read, total, np.nan), np.where(made, total, np.nan))


def _gated(own: Collection[Gate], classes: int) -> Bool[np.ndarray, " classes"]:
    """Which classes have a gate."""
    found = np.zeros(classes, bool)
    for gate in own:
        found[gate.classes[gate.classes >= 0]] = True
    return found


def _squares(
    network: Network,
    plain: Collection[Path],
    computed: Collection[Path],
    variables: Variables,
    inputs: Batch,
    keys: Shaped[Array, " draws"],
) -> Float[Array, "draws classes"]:
    """For each draw of signs the squared derivative by the gate of each class.

    Args:
      network: the network.
      plain: the weights with gates that are variables as they are.
      computed: the variables that become weights with gates.
      variables: the variables of the network.
      inputs: a batch.
      keys: of the draws.
    """
    graph, arrays = network.graph, flat(variables)
    others = {gate.path for gate in gates(graph)} - {*plain}

    def outputs(weights: Mapping[Path, Array], values: Float[jax.Array, " classes"]) -> list[Array]:
        now = nested({**arrays, **weights})
        if computed:
            returned = gated(graph, computed, values)(now, *inputs, **network.kwargs)
        else:
            returned = network.outputs(now, *inputs)
        return [array for array in jax.tree.leaves(returned) if jnp.issubdtype(jnp.result_type(array), jnp.inexact)]

    weights = {path: arrays[path] for path in plain}
    results, pull = jax.vjp(outputs, weights, jnp.ones(class_count(graph.ties)))

    def drawn(key: Array) -> Float[Array, " classes"]:
        pairs = zip(jax.random.split(key, len(results)), results, strict=True)
        by_weights, by_gates = pull([jax.random.rademacher(k, a.shape, jnp.float32).astype(a.dtype) for k, a in pairs])
        if weights:
            by_gates += gate_derivatives(graph, nested(weights), nested(by_weights), others)
        return jnp.square(by_gates)

    found: Array = jax.lax.map(drawn, keys)
    return found
