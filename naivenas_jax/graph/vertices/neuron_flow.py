"""Where the neurons of a function lie in its jaxpr: nothing is computed, and no program is compiled.

A function is traced at several numbers of neurons. If the jaxprs differ in nothing but that number, every value in them
can be followed: it holds the neurons on one of its dimensions, entry i what was computed from neuron i alone; or it
holds none. What cannot be followed is not guessed: the function is then run on numbers (`independence_check`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import jax
import numpy as np

from naivenas_jax.jaxpr.elementwise_primitives import ELEMENTWISE
from naivenas_jax.jaxpr.interpret import Equation, Literal, called, interpret
from naivenas_jax.jaxpr.primitive_tables import register
from naivenas_jax.typing import Array, PyTree

#: Parameters of primitives that are shapes, which follow the number of neurons.
_SIZES = frozenset(("shape", "new_sizes", "limit_indices", "slice_sizes", "sizes"))


class UnknownFlowError(Exception):
    """What a function does with its neurons cannot be read from its jaxpr. Internal: it is run on numbers then."""


@dataclass(frozen=True)
class Flow:
    """What is known of one value.

    Attributes:
      neurons: the dimension on which it holds neurons; None: it holds none.
      uniform: of a value without neurons, the dimensions along which all entries are equal.
      wide: the dimensions that are as large as there are neurons.
      mixed: whether it depends on all neurons together, in whatever order they are.
    """

    neurons: int | None = None
    uniform: frozenset[int] = frozenset()
    wide: frozenset[int] = frozenset()
    mixed: bool = False

    @property
    def narrow(self) -> bool:
        """Whether it holds no neurons, and the number of neurons does not show in its shape."""
        return self.neurons is None and not self.wide


#: ``rule(eqn, operands) -> what is known of the first result``, whose wide dimensions are filled in afterwards.
Rule = Callable[[Equation, Sequence[Flow]], Flow]
_RULES: dict[str, Rule] = {}


@dataclass(frozen=True)
class Reading:
    """What a function does with its neurons, all of them alike.

    Attributes:
      mixed: whether neuron i of the result depends on all neurons; else it depends on neuron i alone.
      counted: whether the number of neurons is among the numbers that it computes with.
    """

    mixed: bool
    counted: bool


def neuron_flow(function: Callable[..., PyTree], shapes: Sequence[Sequence[tuple[int, ...]]]) -> Reading:
    """What a function does with its neurons.

    Args:
      function: of arrays, with neurons on the last dimension.
      shapes: for each number of neurons to try the shapes of all arrays.

    Raises:
      UnknownFlowError: if it cannot be read.

    >>> shapes = [[(4, n)] for n in (6, 3)]
    >>> neuron_flow(jax.numpy.tanh, shapes), neuron_flow(lambda x: x - x.mean(-1, keepdims=True), shapes)
    (Reading(mixed=False, counted=False), Reading(mixed=True, counted=True))
    """
    traces = [_Trace.of(function, own) for own in shapes]
    counted = [not _same_numbers(traces[0], other) for other in traces[1:]]
    first, wide = traces[0], [_wide(own, traces) for own in zip(*(trace.shapes for trace in traces), strict=True)]
    numbers = iter(wide)

    def follow(eqn: Equation, operands: list[Flow]) -> list[Flow]:
        if (inner := called(eqn)) is not None:
            return interpret(inner, operands, follow, _constant)
        found = _RULES.get(eqn.primitive.name, _unknown)(eqn, operands)
        found = replace(found, mixed=found.mixed or any(operand.mixed for operand in operands))
        return [_checked(replace(found, wide=next(numbers))) for _ in eqn.outvars]

    given = [Flow(neurons=len(shape) - 1, wide=frozenset((len(shape) - 1,))) for shape in shapes[0]]
    (made,) = interpret(first.jaxpr, given, follow, _constant)
    last = len(first.jaxpr.out_avals[0].shape) - 1
    if made.neurons != last and not (made.neurons is None and made.wide == {last} <= made.uniform):
        raise UnknownFlowError
    return Reading(made.mixed, any(counted))


@dataclass
class _Trace:
    """A jaxpr at one number of neurons, and its equations in order, those inside calls in place of the calls.

    Attributes:
      jaxpr: the jaxpr.
      neurons: their number.
      said: for each equation its primitive, its literals, and its parameters; and each constant.
      shapes: of all results of equations.
    """

    jaxpr: jax.extend.core.ClosedJaxpr
    neurons: int
    said: list[tuple[str, Sequence[object], Mapping[str, object]]] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)

    @classmethod
    def of(cls, function: Callable[..., PyTree], shapes: Sequence[tuple[int, ...]]) -> _Trace:
        """Trace a function.

        Raises:
          UnknownFlowError: if that fails, or the function returns something else than one array.
        """
        try:
            jaxpr = jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes))
        except Exception as error:  # whatever a user's function raises
            raise UnknownFlowError from error
        if len(jaxpr.out_avals) != 1 or jaxpr.effects or not getattr(jaxpr.out_avals[0], "shape", ()):
            raise UnknownFlowError
        trace = cls(jaxpr, shapes[0][-1])
        trace._collect(jaxpr)
        return trace

    def _collect(self, closed: jax.extend.core.ClosedJaxpr) -> None:
        self.said.append(("constants", closed.consts, {}))
        for eqn in closed.jaxpr.eqns:
            literals = [atom.val for atom in eqn.invars if isinstance(atom, Literal)]
            inner = called(eqn)
            self.said.append((eqn.primitive.name, literals, {} if inner else eqn.params))
            if inner is not None:
                self._collect(inner)
                continue
            self.shapes += [getattr(var.aval, "shape", ()) for var in eqn.outvars]


def _same_numbers(one: _Trace, other: _Trace) -> bool:
    """Whether two traces compute with the same numbers.

    Raises:
      UnknownFlowError: if they differ in more than numbers and the number of neurons in shapes.
    """
    if len(one.said) != len(other.said) or len(one.shapes) != len(other.shapes):
        raise UnknownFlowError
    sizes, same = (one.neurons, other.neurons), True
    for (name, values, params), (name2, values2, params2) in zip(one.said, other.said, strict=True):
        if name != name2 or len(values) != len(values2) or params.keys() != params2.keys():
            raise UnknownFlowError
        if not all(_agree(value, params2[key], sizes if key in _SIZES else (0, 0)) for key, value in params.items()):
            raise UnknownFlowError
        same &= all(map(_equal, values, values2))
    return same


def _agree(a: object, b: object, sizes: tuple[int, int]) -> bool:
    """Whether two parameters are equal, or shapes that differ in the number of neurons."""
    if isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b):
        return all(n == m or (n, m) == sizes for n, m in zip(a, b, strict=True))
    return bool(a == b)


def _equal(a: object, b: object) -> bool:
    """Whether two numbers are equal.

    Raises:
      UnknownFlowError: if they are arrays of different shapes, or traced.
    """
    if isinstance(a, jax.core.Tracer) or isinstance(b, jax.core.Tracer):
        raise UnknownFlowError
    first, second = np.asarray(a), np.asarray(b)
    if first.shape != second.shape or (first.ndim and not np.array_equal(first, second)):
        raise UnknownFlowError
    return first.dtype == second.dtype and np.array_equal(first, second, equal_nan=first.dtype.kind in "fc")


def _wide(shapes: Sequence[tuple[int, ...]], traces: Sequence[_Trace]) -> frozenset[int]:
    """The dimensions of a value that are as large as there are neurons.

    Raises:
      UnknownFlowError: if a dimension follows their number in another way.
    """
    found = set()
    for dim, sizes in enumerate(zip(*shapes, strict=True)):
        if len(set(sizes)) == 1:
            continue
        if list(sizes) != [trace.neurons for trace in traces]:
            raise UnknownFlowError
        found.add(dim)
    return frozenset(found)


def _checked(flow: Flow) -> Flow:
    """What was found of a value, if its shape agrees: beside its neurons nothing is as large as they are many."""
    if flow.neurons is not None and flow.wide != {flow.neurons}:
        raise UnknownFlowError
    return flow


def _constant(value: Array, aval: jax.core.AbstractValue) -> Flow:
    del aval
    return Flow(uniform=frozenset(range(np.ndim(value))) if np.size(value) == 1 else frozenset())


def _unknown(eqn: Equation, operands: Sequence[Flow]) -> Flow:
    """Whatever a primitive does with values that have nothing to do with neurons, its results have neither."""
    if eqn.effects or not all(operand.narrow and not operand.mixed for operand in operands):
        raise UnknownFlowError
    return Flow()


def _rank(eqn: Equation, operand: int = 0) -> int:
    return len(eqn.invars[operand].aval.shape)


def _moved(flow: Flow, place: Mapping[int, int]) -> Flow:
    """A value whose dimensions have other numbers."""
    if flow.neurons is not None and flow.neurons not in place:
        raise UnknownFlowError
    neurons = None if flow.neurons is None else place[flow.neurons]
    return replace(flow, neurons=neurons, uniform=frozenset(place[d] for d in flow.uniform if d in place))


def _apart(flow: Flow, dims: Collection[int]) -> Flow:
    """A value in which something happens along some dimensions, on which no neurons may lie."""
    if flow.neurons in dims or not flow.wide.isdisjoint(dims):
        raise UnknownFlowError
    return replace(flow, uniform=flow.uniform - frozenset(dims))


@register(_RULES, ELEMENTWISE)
def _elementwise(eqn: Equation, operands: Sequence[Flow]) -> Flow:
    ranked = [flow for i, flow in enumerate(operands) if _rank(eqn, i)]
    places = {flow.neurons for flow in ranked} - {None}
    every = frozenset(range(len(eqn.outvars[0].aval.shape)))
    if not places:
        return Flow(uniform=every.intersection(*(flow.uniform for flow in ranked)))
    (place, *others) = places
    if others or any(flow.neurons is None and place not in flow.uniform for flow in ranked):
        raise UnknownFlowError
    return Flow(neurons=place)


@register(_RULES, ["broadcast_in_dim"])
def _broadcast(eqn: Equation, operands: Sequence[Flow]) -> Flow:
    place, shape = dict(enumerate(eqn.params["broadcast_dimensions"])), eqn.params["shape"]
    before = eqn.invars[0].aval.shape
    stays = {place[d] for d in place if before[d] == shape[place[d]]}
    moved = _moved(operands[0], place)
    return replace(moved, uniform=moved.uniform | (frozenset(range(len(shape))) - stays))


@register(_RULES, ["reshape"])
def _reshape(eqn: Equation, operands: Sequence[Flow]) -> Flow:
    (flow, *_), before, after = operands, eqn.invars[0].aval.shape, eqn.params["new_sizes"]
    if eqn.params.get("dimensions") is not None:
        raise UnknownFlowError
    if flow.neurons is None:
        whole = flow.uniform == frozenset(range(len(before)))
        if flow.wide and not whole:
            raise UnknownFlowError
        return replace(flow, uniform=frozenset(range(len(after))) if whole else frozenset())
    ahead, size = np.prod(before[: flow.neurons]), before[flow.neurons]
    places = [d for d, n in enumerate(after) if n == size and np.prod(after[:d]) == ahead]
    if len(places) != 1:
        raise UnknownFlowError
    return replace(flow, neurons=places[0])


@register(_RULES, ["squeeze"])
def _squeeze(eqn: Equation, operands: Sequence[Flow]) -> Flow:
    return _without(operands[0], _rank(eqn), eqn.params["dimensions"])


def _without(flow: Flow, rank: int, dims: Collection[int]) -> Flow:
    left = [d for d in range(rank) if d not in dims]
    return _moved(flow, {d: i for i, d in enumerate(left)})


@register(_RULES, ["transpose"])
def _transpose(eqn: Equation, operands: Sequence[Flow]) -> Flow:
    return _moved(operands[0], {old: new for new, old in enumerate(eqn.params["permutation"])})


@register(_RULES, ["reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or", "reduce_xor"])
def _reduce(eqn: Equation, operands: Sequence[Flow]) -> Flow:
    (flow, *_), dims = operands, eqn.params["axes"]
    if flow.neurons in dims:  # in whatever order the neurons are
        return Flow(mixed=True)
    return _without(_apart(flow, dims), _rank(eqn), dims)


@register(_RULES, ["argmax", "argmin"])
def _arg(eqn: Equation, operands: Sequence[Flow]) -> Flow:
    return _without(_apart(operands[0], eqn.params["axes"]), _rank(eqn), eqn.params["axes"])


@register(_RULES, ["cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"])
def _cumulative(eqn: Equation, operands: Sequence[Flow]) -> Flow:
    return _apart(operands[0], (eqn.params["axis"],))


@register(_RULES, ["rev"])
def _reverse(eqn: Equation, operands: Sequence[Flow]) -> Flow:
    return _apart(operands[0], eqn.params["dimensions"])


@register(_RULES, ["slice"])
def _slice(eqn: Equation, operands: Sequence[Flow]) -> Flow:
    given, shape = eqn.params, eqn.invars[0].aval.shape
    strides = given["strides"] or (1,) * len(shape)
    bounds = zip(given["start_indices"], given["limit_indices"], strides, shape, strict=True)
    return _apart(operands[0], [d for d, (a, b, step, n) in enumerate(bounds) if (a, b, step) != (0, n, 1)])


@register(_RULES, ["pad"])
def _pad(eqn: Equation, operands: Sequence[Flow]) -> Flow:
    flow, value = operands
    if not value.narrow:
        raise UnknownFlowError
    return _apart(flow, [d for d, config in enumerate(eqn.params["padding_config"]) if tuple(config) != (0, 0, 0)])


@register(_RULES, ["concatenate"])
def _concatenate(eqn: Equation, operands: Sequence[Flow]) -> Flow:
    joined = _elementwise(eqn, operands)
    if joined.neurons == eqn.params["dimension"] or any(eqn.params["dimension"] in flow.wide for flow in operands):
        raise UnknownFlowError
    return replace(joined, uniform=joined.uniform - {eqn.params["dimension"]})


@register(_RULES, ["iota"])
def _iota(eqn: Equation, operands: Sequence[Flow]) -> Flow:
    del operands
    return Flow(uniform=frozenset(range(len(eqn.params["shape"]))) - {eqn.params["dimension"]})


@register(_RULES, ["reduce_window_sum", "reduce_window_max", "reduce_window_min"])
def _window(eqn: Equation, operands: Sequence[Flow]) -> Flow:
    keys = ("window_dimensions", "window_strides", "padding", "base_dilation", "window_dilation")
    own = zip(*(eqn.params[key] for key in keys), strict=True)
    still = [(size, stride, *pads, base, dilation) == (1, 1, 0, 0, 1, 1) for size, stride, pads, base, dilation in own]
    return _apart(operands[0], [dim for dim, stays in enumerate(still) if not stays])


@register(_RULES, ["dot_general"])
def _contract(eqn: Equation, operands: Sequence[Flow]) -> Flow:
    """One operand holds neurons, on a dimension that is not summed over; the other has nothing to do with them."""
    contracted, batch = eqn.params["dimension_numbers"]
    holders = [side for side, flow in enumerate(operands) if flow.neurons is not None]
    if len(holders) != 1 or not operands[1 - holders[0]].narrow:
        return _unknown(eqn, operands)
    (side,) = holders
    place, free = (
        operands[side].neurons,
        [[d for d in range(_rank(eqn, s)) if d not in (*contracted[s], *batch[s])] for s in (0, 1)],
    )
    if place not in free[side]:
        raise UnknownFlowError
    return Flow(neurons=len(batch[0]) + (len(free[0]) if side else 0) + free[side].index(place))
