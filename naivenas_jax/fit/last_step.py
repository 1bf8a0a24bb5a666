"""Gradients that go around the last step of a network, such as a sigmoid or softmax, in which they would vanish.

Let y' = f(z') be an output, y what is wanted, and J the derivative of f. The gradient of |y' - y|^2 / 2 by z' is
J (y' - y). Where a sigmoid is as good as 0 or 1, J is as good as 0, also if it is the wrong one of the two. If J is
symmetric and positive everywhere, f is the gradient of a convex function F. Then y' - y is a gradient as well, that of
the *matching loss*

    F(z') - F(z) - y (z' - z),  with y = f(z),

which is convex in z', and least where z' makes y. Of a sigmoid and of a softmax this is the cross-entropy, less that of
y with itself; of what has no last step it is half of the square. So nothing has to be known of f but J.

Source: Auer, Herbster and Warmuth, Exponentially Many Local Minima for Single Neurons, NIPS 1995.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from naivenas_jax.dataflow.necks import followed, necks
from naivenas_jax.dataflow.tape import Tape, Values
from naivenas_jax.fit.network.network import Network
from naivenas_jax.graph.evaluation.batches import Batch
from naivenas_jax.typing import Array, Variables

#: Sums of products that are equal differ by no more than this, relative to the lengths of their vectors.
ROUNDING = 1e-3


class LastStep(NamedTuple):
    """The last step of an output.

    Attributes:
      output: which output it is.
      start: the place of z among the necks of the output (`naivenas_jax.dataflow.necks`).
      end: the place of f(z). What follows moves its entries about, shifts and scales them.
    """

    output: int
    start: int
    end: int


def last_steps(network: Network, variables: Variables, inputs: Batch) -> tuple[LastStep, ...]:
    """The last steps that gradients may go around.

    What f is does not depend on variables. Its derivative is looked at for random values, and not for those that the
    network makes, at which it may have vanished.

    Args:
      network: the network.
      variables: its variables; their shapes count.
      inputs: a batch; its shapes count.
    """
    tape = network.tape(variables, inputs)
    ways = {output: way for output, number in enumerate(tape.results) if len(way := necks(tape, number)) > 1}
    if not ways:
        return ()
    shapes = jax.eval_shape(tape.evaluated, variables, inputs)
    generator, known = np.random.default_rng(0), tape.known_beforehand()
    for number in sorted({number for way in ways.values() for number in way}):
        if jnp.issubdtype(shapes[number].dtype, jnp.floating):
            known[number] = _random(shapes[number].shape, shapes[number].dtype, generator)
    found = (_last_step(tape, output, way, known) for output, way in ways.items() if way[0] in known)
    return tuple(step for step in found if step is not None)


def outputs_around(
    network: Network, steps: Sequence[LastStep], variables: Variables, inputs: Batch
) -> tuple[Array, ...]:
    """The outputs of a network; their gradients go around last steps, as if each of these were f(z) = z."""
    if not steps:
        return network.outputs(variables, *inputs)
    tape = network.tape(variables, inputs)
    known = tape.evaluated(variables, inputs)
    outputs = [known[number] for number in tape.results]
    for step in steps:
        way = necks(tape, tape.results[step.output])
        z, end = known[way[step.start]], known[way[step.end]]
        outputs[step.output] = followed(tape, way[step.end], z + jax.lax.stop_gradient(end - z), way[0], known)
    return tuple(outputs)


def _last_step(tape: Tape, output: int, way: Sequence[int], known: Values) -> LastStep | None:
    """The longest last step of an output with these necks, of which some have values."""

    def slope(start: int, end: int) -> Callable[[Array, Array], Array]:
        """The transposed derivative of one neck by another: at a value, times a vector."""

        def product(value: Array, vector: Array) -> Array:
            own: Array = jax.vjp(lambda z: followed(tape, way[start], z, way[end], known), value)[1](vector)[0]
            return own

        return product

    places = [i for i, number in enumerate(way) if number in known]
    *_, end = takewhile(lambda i: _is_constant(slope(i, 0), known[way[i]], known[way[0]]), places)
    alike = (i for i in reversed(places) if i > end and known[way[i]].shape == known[way[end]].shape)
    start = next((i for i in alike if _goes_up(slope(i, end), known[way[i]])), None)
    return None if start is None else LastStep(output, start, end)


def _is_constant(slope: Callable[[Array, Array], Array], at: Array, vector: Array) -> bool:
    """Whether a derivative is the same at other values, some of which have other signs."""
    first, *others = (slope(value, vector) for value in (at, 3 * at + 1, -3 * at - 1))
    return all(np.allclose(first, other, rtol=ROUNDING, atol=ROUNDING) for other in others)


def _goes_up(slope: Callable[[Array, Array], Array], at: Array) -> bool:
    """Whether a derivative is symmetric, and positive; along random vectors, and in some entries of every example.

    It is also to be positive along the value itself. Of what is normalised it is zero there, and the matching loss
    |z'| - y z' would make all of it smaller and smaller.
    """
    generator = np.random.default_rng(1)
    first, second = (_random(at.shape, at.dtype, generator) for _ in range(2))
    few = jnp.where(first > 1, first, 0)  # every sixth entry
    there, back = slope(at, first), slope(at, second)
    asymmetry = jnp.abs(jnp.vdot(second, there) - jnp.vdot(first, back))
    lengths = jnp.linalg.norm(there) * jnp.linalg.norm(second)
    each = (few * slope(at, few)).reshape(*at.shape[:1], -1).sum(-1)
    mean, along = (jnp.vdot(v, slope(at, v)) / jnp.vdot(v, v) for v in (first, at))
    up = jnp.all(each >= -ROUNDING * jnp.abs(each).max()) & (mean > 0) & (along > ROUNDING * mean)
    return bool(up & (asymmetry <= ROUNDING * lengths))


def _random(shape: Sequence[int], dtype: np.dtype, generator: np.random.Generator) -> Array:
    return jnp.asarray(generator.normal(size=shape), dtype)
