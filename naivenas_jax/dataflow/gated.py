"""A network with gates on its neurons where weights read them, whatever a weight is computed of.

A weight may be a function of variables (``softplus(w)``). A factor on the variable is then no factor on the weight. So
it is followed on which dimensions of an array which neurons are, through all that weights are made of, loops and
branches included; gates multiply the weight where it is contracted over its neurons with an activation. What only
weights are contracted over (the rank of ``tanh(u @ v)``) is read there; what meets an activation, too, is gated there
alone: a sum over it in between (a norm, a mean) is a number that all neurons have a part in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr

from naivenas_jax.dataflow.gate_labels import Labels, looked_up_dims, moved, united, without
from naivenas_jax.dataflow.gate_loops import Evaluate, Labelled, cond, scan, while_loop
from naivenas_jax.errors import UtilityError
from naivenas_jax.jaxpr.elementwise_primitives import PASSING
from naivenas_jax.jaxpr.interpret import Equation, bind, called, interpret
from naivenas_jax.jaxpr.weight_expression import contracted_dims, is_elementwise
from naivenas_jax.paths import Path, path_text
from naivenas_jax.typing import Array, PyTree, Shape

#: Primitives that put the entries along some dimensions together.
_REDUCING = frozenset(("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or"))


def with_gates(
    fn: Callable[..., PyTree],
    arrays: Mapping[Path, Array],
    labels: Mapping[Path, Sequence[Labels]],
    gates: Array,
    inputs: Sequence[Array | Shape] = (),
) -> PyTree:
    """``fn(arrays, *inputs)``, where each weight is multiplied by the gates of the neurons that it reads.

    Args:
      fn: a network as a function of some of its variables, by path. Works under transformations of jax.
      arrays: these variables.
      labels: for each of them which neurons lie on it. A neuron that is on several of one weight has one gate there.
      gates: the factor of each number of the labels.
      inputs: of the network.

    Raises:
      UtilityError: if it is not known which neurons a weight reads.

    >>> w, x = {("w",): jnp.zeros((2, 1))}, jnp.ones((1, 2))
    >>> own = Labels(np.array([0, 1]), (0,), frozenset([0]), frozenset([("w",)]))
    >>> with_gates(lambda given: x @ jnp.exp(given["w",]), w, {("w",): [own]}, jnp.array([1.0, 0.5]))
    Array([[1.5]], dtype=float32)
    """
    paths = list(arrays)
    program, shape = jax.make_jaxpr(
        lambda values, data: fn(dict(zip(paths, values, strict=True)), *data), return_shape=True
    )([arrays[path] for path in paths], list(inputs))
    given = [Labelled(arrays[path], tuple(labels.get(path, ()))) for path in paths]
    given += [Labelled(array, active=True) for array in inputs if not isinstance(array, Shape)]
    results = _Evaluation(gates, program, given).results()
    return jax.tree.unflatten(jax.tree.structure(shape), [result.array for result in results])


@dataclass(frozen=True)
class _Evaluation:
    """One evaluation of a network with gates.

    Attributes:
      gates: the factor of each number.
      program: the network.
      given: its arguments.
      noted: gets the runs of neurons that activations meet, when nothing but these are wanted; gates of neurons that
        only weights are contracted over are left out then.
    """

    gates: Array
    program: ClosedJaxpr
    given: Sequence[Labelled]
    noted: set[int] | None = field(default=None)

    def results(self) -> list[Labelled]:
        return self._evaluated(self.program, self.given)

    @cached_property
    def _met(self) -> set[int]:
        """The runs of neurons that activations meet."""
        noted = set[int]()
        one = _Evaluation(self.gates, self.program, self.given, noted)
        jax.eval_shape(lambda: [result.array for result in one.results()])
        return noted

    def _inner(self, one: Labels) -> bool:
        """Whether nothing but weights is contracted over these neurons."""
        return self.noted is None and one.runs.isdisjoint(self._met)

    # -- equations -----------------------------------------------------------------------------------------------------

    def _evaluated(self, program: ClosedJaxpr, arguments: Sequence[Labelled]) -> list[Labelled]:
        return interpret(program, arguments, self._equation, lambda value, _: Labelled(value))

    def _equation(self, eqn: Equation, operands: list[Labelled]) -> Sequence[Labelled]:
        name = eqn.primitive.name
        active = any(operand.active for operand in operands)
        if not any(operand.labels or operand.lost for operand in operands):
            arrays = [operand.array for operand in operands]
            return [Labelled(array, active=active) for array in bind(eqn, arrays)]
        if is_elementwise(eqn):
            return [self._entry_by_entry(eqn, operands, active)]
        if (inner := called(eqn)) is not None:
            return self._evaluated(inner, operands)
        if name in _INSIDE:
            return _INSIDE[name](self._evaluated, eqn, operands)
        if name in PASSING:
            passed = bind(eqn, [operand.array for operand in operands])
            return [replace(one, array=array) for one, array in zip(operands, passed, strict=True)]
        if any(True for _ in contracted_dims(eqn)):
            return [self._contraction(eqn, operands, active)]
        if name in _REDUCING:
            return [self._reduction(eqn, operands[0])]
        return self._moved(eqn, operands, active)

    def _entry_by_entry(self, eqn: Equation, operands: Sequence[Labelled], active: bool) -> Labelled:
        arrays = [
            self._times(one, [each for each in one.labels if each.made]) if active and not one.active else one.array
            for one in operands
        ]
        (result,) = bind(eqn, arrays)
        shape = np.shape(result)
        alike = [one for one in operands if np.ndim(one.array) == len(shape)]
        labels = (each for one in alike for each in one.labels if not (active and each.made))
        return self._result(result, united(shape, labels), alike, active)

    def _moved(self, eqn: Equation, operands: Sequence[Labelled], active: bool) -> list[Labelled]:
        if eqn.primitive.name == "gather" and operands[1].active and not operands[0].active:
            # Entries that are looked up read what they are looked up by, and make all else.
            read = [one for one in operands[0].labels if one.made or one.along(looked_up_dims(eqn))]
            operands = [replace(operands[0], array=self._times(operands[0], read), labels=()), *operands[1:]]
        arrays = [operand.array for operand in operands]
        results = bind(eqn, arrays)
        found: list[list[Labels]] = [[] for _ in results]
        lost = set[Path]()
        for number, operand in enumerate(operands):
            for one in operand.labels:
                parts = moved(eqn, one, arrays, number)
                lost |= one.sources if parts is None else set()
                for own, part in zip(found, parts or [None] * len(found), strict=True):
                    own += [] if part is None else [part]
        return [
            self._result(array, united(np.shape(array), own), operands, active, frozenset(lost))
            for array, own in zip(results, found, strict=True)
        ]

    def _contraction(self, eqn: Equation, operands: Sequence[Labelled], active: bool) -> Labelled:
        arrays, read = [], list[Labels]()
        for number, operand in enumerate(operands):
            over = _read_dims(eqn, number, active and not operand.active)
            own = [one for one in operand.labels if one.along(over) or (active and one.made)]
            own = [one for one in own if not any(one.same(other) for other in read)]
            own = own if active else list(filter(self._inner, own))
            self._note(own, active)
            arrays.append(self._times(operand, own))
            read += own
        (result,) = bind(eqn, arrays)
        if active or eqn.primitive.name != "dot_general":
            lost = frozenset[Path]().union(*(one.sources for operand in operands for one in operand.labels))
            return self._result(result, (), operands, active, frozenset() if active else lost)
        labels = (
            one.put(one.numbers, to)
            for number, operand in enumerate(operands)
            for one in operand.labels
            if one not in read and (to := _of_product(eqn, number, one.dims)) is not None
        )
        return self._result(result, united(np.shape(result), labels), operands, active)

    def _reduction(self, eqn: Equation, operand: Labelled) -> Labelled:
        axes, summed = eqn.params["axes"], eqn.primitive.name == "reduce_sum"
        own = [one for one in operand.labels if one.along(axes)]
        read = own if operand.active else list(filter(self._inner, own))
        self._note(read, operand.active)
        lost = frozenset[Path]().union(*(one.sources for one in read if not (summed or operand.active)))
        (result,) = bind(eqn, [self._times(operand, read) if summed else operand.array])
        labels = [without(one, axes) for one in operand.labels if one not in own]
        return self._result(result, labels, [operand], operand.active, lost)

    def _note(self, labels: Sequence[Labels], active: bool) -> None:
        if self.noted is not None and active:
            self.noted.update(*(one.runs for one in labels))

    def _times(self, operand: Labelled, labels: Sequence[Labels]) -> Array:
        """An array, each entry of which is multiplied by the gates of its neurons."""
        array, gates = operand.array, jnp.asarray(self.gates)
        for one in labels:
            factor = jnp.where(jnp.asarray(one.numbers) >= 0, gates[jnp.maximum(one.numbers, 0)], 1)
            wide = [n if d in one.dims else 1 for d, n in enumerate(np.shape(array))]
            array = array * jnp.asarray(factor.reshape(wide), jnp.result_type(array))
        return array

    def _result(
        self,
        array: Array,
        labels: Sequence[Labels],
        operands: Sequence[Labelled],
        active: bool,
        lost: frozenset[Path] = frozenset(),
    ) -> Labelled:
        lost = lost.union(*(operand.lost for operand in operands))
        if lost and active and self.noted is None:
            names = ", ".join(sorted(path_text(path) for path in lost))
            raise UtilityError(
                f"A weight is made of {names} in a way that hides which of its entries read which neurons (an order by "
                "values, linear algebra), so that these have no scores by gates. Use another score: "
                "nas.magnitude, nas.activity."
            )
        return Labelled(array, tuple(labels), active, lost if np.ndim(array) else frozenset())


def _read_dims(eqn: Equation, number: int, by_activation: bool) -> tuple[int, ...]:
    """The dimensions on which an operand of a contraction reads neurons: an activation meets a weight for each, too."""
    along = eqn.params["dimension_numbers"][1][number] if by_activation and eqn.primitive.name == "dot_general" else ()
    return (*dict(contracted_dims(eqn)).get(number, ()), *along)


def _of_product(eqn: Equation, number: int, dims: Sequence[int]) -> tuple[int, ...] | None:
    """Where dimensions of an operand lie on a product of arrays; None where one is contracted."""
    contracted, batch = eqn.params["dimension_numbers"]
    if not set(dims).isdisjoint(contracted[number]):
        return None
    rank = eqn.invars[number].aval.ndim
    free = [d for d in range(rank) if d not in (*contracted[number], *batch[number])]
    first = eqn.outvars[0].aval.ndim - len(free) if number else len(batch[0])
    to = {d: i for i, d in enumerate(batch[number])} | {d: first + i for i, d in enumerate(free)}
    return tuple(to[d] for d in dims)


_INSIDE: Mapping[str, Callable[[Evaluate, Equation, Sequence[Labelled]], list[Labelled]]] = {
    "scan": scan,
    "while": while_loop,
    "cond": cond,
}
