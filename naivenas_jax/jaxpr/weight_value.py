"""What a weight is as a function of its variables: its degree, its value at any sizes, and where entries lie in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from naivenas_jax.jaxpr.interpret import Equation, bind, called
from naivenas_jax.jaxpr.weight_expression import Weight, has_tables, is_elementwise, reshaped_groups
from naivenas_jax.paths import Path
from naivenas_jax.typing import Array

#: Primitives that move entries, or are linear in their first operand.
_LINEAR = frozenset(
    (
        *["convert_element_type", "copy", "copy_p", "reshape", "transpose", "squeeze", "broadcast_in_dim", "rev"],
        *["slice", "dynamic_slice", "gather", "reduce_sum", "cumsum", "neg", "real", "imag", "conj", "fft"],
        *["reduce_max", "reduce_min", "reduce_window_sum", "split", "tile", "reduce_precision", "expand_dims"],
    )
)
#: Primitives that are linear in all of their operands together.
_ADDING = frozenset(("add", "add_any", "sub", "concatenate", "stack", "complex", "pad"))
#: Primitives that put the last or second operand into the first, at places that the others tell.
_WRITING = {"scatter": 2, "scatter-add": 2, "scatter-sub": 2, "dynamic_update_slice": 1}
_MULTIPLYING = frozenset(("mul", "dot_general", "conv_general_dilated"))
MOVES = frozenset(("reshape", "transpose", "squeeze", "broadcast_in_dim", "expand_dims", "tile", "copy", "copy_p"))
#: The degree of zero, which is homogeneous of any degree.
ANY = math.inf


class UnknownWeightError(Exception):
    """The value of a weight cannot be told at these sizes."""


def degree(weight: Weight, of: Collection[Path]) -> float | None:
    """The degree in which a weight is homogeneous in some variables together; None if it is not, or is not known to be.

    A weight of degree 1 is zero where these variables are, and its derivative along them is the weight itself.
    """
    known: dict[Weight, float | None] = {}

    def follow(one: Weight) -> float | None:
        if one not in known:
            known[one] = _degree(one, of, follow)
        return known[one]

    return follow(weight)


def _degree(one: Weight, of: Collection[Path], follow: Callable[[Weight], float | None]) -> float | None:
    if one.path is not None:
        return float(one.path in of)
    if one.eqn is None:
        if one.operands:
            return follow(one.operands[0])
        return ANY if _is_zero(one.constant) else 0.0
    if one.variables.isdisjoint(of):
        return ANY if one.operands and all(follow(operand) == ANY for operand in one.operands[:1]) else 0.0
    found, name = [follow(operand) for operand in one.operands], one.eqn.primitive.name
    degrees = [each for each in found if each is not None]
    if len(degrees) < len(found):
        return None
    if name in _LINEAR:
        return degrees[0] if all(each in (0.0, ANY) for each in degrees[1:]) else None
    if name in _ADDING or (name == "select_n" and degrees[0] in (0.0, ANY)):
        each = set(degrees[name == "select_n" :]) - {ANY}
        return each.pop() if len(each) == 1 else None
    if name in _WRITING:
        both = {degrees[0], degrees[_WRITING[name]]} - {ANY}
        return both.pop() if len(both) == 1 else None
    if name in _MULTIPLYING:
        return sum(degrees)
    if name == "div":
        return degrees[0] if degrees[1] == 0 else None
    if name in ("square", "integer_pow"):
        power = 2 if name == "square" else one.eqn.params["y"]
        return degrees[0] * power if power > 0 else None
    return None


def _is_zero(constant: object) -> bool:
    """Whether a constant is the number 0."""
    if isinstance(constant, jax.core.Tracer) or not isinstance(
        constant, int | float | np.ndarray | np.generic | jax.Array
    ):
        return False
    return np.ndim(constant) == 0 and jnp.issubdtype(jnp.result_type(constant), np.number) and bool(constant == 0)


def entrywise(weight: Weight, path: Path) -> bool:
    """Whether each entry of a weight is computed of the entries of a variable at its own place, however moved."""
    if path not in weight.variables or weight.path == path:
        return True
    own = weight.eqn is None or weight.eqn.primitive.name in MOVES or is_elementwise(weight.eqn)
    return own and all(entrywise(operand, path) for operand in weight.operands)


@dataclass(frozen=True)
class _Spread:
    """An array some of whose dimensions stand for more entries, which are all alike: they have size one here."""

    array: Array
    alike: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Evaluation:
    """Weights for given arrays of the variables, which need not have the sizes of the trace.

    Attributes:
      arrays: the variables.
      row: which round of a loop it is, for weights inside one.
      most: constants are cut to so many entries along each dimension; None: they are as they are.
    """

    arrays: Mapping[Path, Array]
    row: int | Array = 0
    most: int | None = None
    _known: dict[Weight, _Spread] = field(default_factory=dict)

    def value(self, weight: Weight) -> Array:
        """The entries of a weight; a dimension along which all are alike may have size one.

        Raises:
          UnknownWeightError: the equations cannot be told at these sizes.
        """
        return self._found(weight).array

    def _found(self, weight: Weight) -> _Spread:
        if weight not in self._known:
            self._known[weight] = self._computed(weight)
        return self._known[weight]

    def _computed(self, weight: Weight) -> _Spread:
        if weight.path is not None:
            return _Spread(self.arrays[weight.path])
        if weight.eqn is None:
            if not weight.operands:
                return _Spread(self._constant(weight))
            return self._row(self._found(weight.operands[0]), weight.operands[0])
        operands = [self._found(operand) for operand in weight.operands]
        name = weight.eqn.primitive.name
        if name in _SPREADING:
            return _SPREADING[name](weight.eqn, operands[0], weight)
        if is_elementwise(weight.eqn):
            return _elementwise(weight.eqn, operands, weight.shape)
        if any(operand.alike for operand in operands):
            raise UnknownWeightError(name)
        try:
            return _Spread(bind(weight.eqn, [operand.array for operand in operands])[weight.number])
        except (TypeError, ValueError) as error:
            raise UnknownWeightError(name) from error

    def _constant(self, weight: Weight) -> Array:
        array = weight.constant
        assert array is not None, weight
        return array if self.most is None else np.asarray(array)[tuple(slice(self.most) for _ in np.shape(array))]

    def _row(self, value: _Spread, of: Weight) -> _Spread:
        if of.path is None and (of.eqn is None or any(one.path is None for one in _leaves(of))):
            raise UnknownWeightError("scan")  # a loop in a loop: which row of what is not known
        row = jnp.asarray(value.array)[0 if 0 in value.alike else self.row]
        return _Spread(row, frozenset(d - 1 for d in value.alike if d))


def _leaves(weight: Weight) -> list[Weight]:
    """The variables, and the rows of loops, that a weight is made of."""
    if weight.eqn is None:
        return [weight] if weight.variables else []
    return [leaf for operand in weight.operands for leaf in _leaves(operand)]


def _elementwise(eqn: Equation, operands: Sequence[_Spread], traced: tuple[int, ...]) -> _Spread:
    rank = len(traced)
    if any(np.ndim(one.array) not in (0, rank) for one in operands):
        raise UnknownWeightError(eqn.primitive.name)
    try:
        shape = np.broadcast_shapes(*(np.shape(one.array) for one in operands))
        typed = [_typed(eqn, i, one.array) for i, one in enumerate(operands)]
        scalars = eqn.primitive.name in ("select_n", "clamp") or called(eqn) is not None
        arrays = [array if scalars and array.ndim == 0 else jnp.broadcast_to(array, shape) for array in typed]
        alike = frozenset(d for d in range(rank) if shape[d] == 1 != traced[d])
        return _Spread(bind(eqn, arrays)[0] if called(eqn) is None else _in_portions(eqn, arrays, traced), alike)
    except (TypeError, ValueError) as error:
        raise UnknownWeightError(eqn.primitive.name) from error


def _in_portions(eqn: Equation, arrays: Sequence[jax.Array], traced: tuple[int, ...]) -> jax.Array:
    """A function with derivatives of its own, which takes arrays of one shape only: entry by entry, so in portions."""
    shape = np.broadcast_shapes(*(array.shape for array in arrays))
    if shape == traced:
        return jnp.asarray(bind(eqn, arrays)[0])
    total, portion = math.prod(shape), math.prod(traced)
    rows = -(-total // portion)
    sizes = (rows * portion,)
    given = [one if one.ndim == 0 else jnp.resize(one, sizes).reshape(rows, *traced) for one in arrays]
    made = jax.vmap(lambda *xs: jnp.asarray(bind(eqn, xs)[0]), [None if one.ndim == 0 else 0 for one in arrays])(*given)
    return jnp.ravel(made)[:total].reshape(shape)


def _typed(eqn: Equation, number: int, array: Array) -> jax.Array:
    """A literal is a number of Python, of the dtype that the equation says."""
    return array if isinstance(array, jax.Array) else jnp.asarray(array, eqn.invars[number].aval.dtype)


def _reshape(eqn: Equation, value: _Spread, weight: Weight) -> _Spread:
    before, after = eqn.invars[0].aval.shape, weight.shape
    now, shape, alike = np.shape(value.array), [1] * len(after), set()
    for mine, theirs in reshaped_groups(before, after):
        wide = [d for d in theirs if after[d] != 1]
        own = [d for d in mine if before[d] != 1]
        if any(d in value.alike for d in own):
            if not all(d in value.alike for d in own):
                raise UnknownWeightError("reshape")
            alike.update(wide)
        elif len(wide) == 1:
            shape[wide[0]] = math.prod(now[d] for d in own)
        elif [now[d] for d in own] == [before[d] for d in own]:
            for d in wide:
                shape[d] = after[d]
        elif wide:
            raise UnknownWeightError("reshape")
    return _Spread(jnp.reshape(value.array, shape), frozenset(alike))


def _broadcast(eqn: Equation, value: _Spread, weight: Weight) -> _Spread:
    to, before, now = eqn.params["broadcast_dimensions"], eqn.invars[0].aval.shape, np.shape(value.array)
    shape, kept = [1] * len(weight.shape), set()
    for d, place in enumerate(to):
        shape[place] = now[d]
        if d not in value.alike and (before[d] == weight.shape[place]):
            kept.add(place)
    alike = frozenset(d for d, n in enumerate(weight.shape) if n != 1 and d not in kept)
    return _Spread(jnp.reshape(value.array, shape), alike)


def _tile(eqn: Equation, value: _Spread, weight: Weight) -> _Spread:
    reps, before = eqn.params["reps"], eqn.invars[0].aval.shape
    alike = {d for d, (k, n) in enumerate(zip(reps, before, strict=True)) if d in value.alike or (n == 1 < k)}
    array = jnp.tile(value.array, [1 if d in alike else k for d, k in enumerate(reps)])
    return _Spread(array, frozenset(d for d in alike if weight.shape[d] != 1))


def _transpose(eqn: Equation, value: _Spread, weight: Weight) -> _Spread:
    del weight
    order = eqn.params["permutation"]
    return _Spread(jnp.transpose(value.array, order), frozenset(i for i, d in enumerate(order) if d in value.alike))


#: Primitives that are evaluated at any sizes, on arrays with dimensions that stand for more entries.
_SPREADING: Mapping[str, Callable[[Equation, _Spread, Weight], _Spread]] = {
    "reshape": _reshape,
    "squeeze": _reshape,
    "expand_dims": _reshape,
    "broadcast_in_dim": _broadcast,
    "tile": _tile,
    "transpose": _transpose,
}


def places(weight: Weight, path: Path, shape: Sequence[int]) -> np.ndarray:
    """For each entry of a weight that is entrywise in a variable the position of the variable's entry.

    Args:
      weight: the weight.
      path: the variable.
      shape: the shape of the variable, or of one row of it in a loop.

    Raises:
      UnknownWeightError: the entries of the variable are moved in different ways, or nowhere at these sizes.
    """
    found = _places(weight, path, np.arange(math.prod(shape)).reshape(tuple(shape)))
    if found is None:
        raise UnknownWeightError("moved")
    return np.asarray(found.array)


def _places(weight: Weight, path: Path, own: np.ndarray) -> _Spread | None:
    if weight.path is not None:
        return _Spread(own) if weight.path == path else None
    if weight.eqn is None:
        row = weight.operands[0] if weight.operands else None
        return None if row is None else _places(row, path, own) if row.path == path else None
    operands = [_places(operand, path, own) for operand in weight.operands]
    moved = [one for one in operands if one is not None]
    if not moved:
        return None
    if (rule := _SPREADING.get(weight.eqn.primitive.name)) is not None:
        with jax.ensure_compile_time_eval():
            return rule(weight.eqn, moved[0], weight)
    if any(not np.array_equal(one.array, moved[0].array) for one in moved[1:]):
        raise UnknownWeightError("moved in two ways")
    return moved[0]


def in_rows(weight: Weight, path: Path) -> bool:
    """Whether a loop goes over a variable that a weight is made of."""
    if weight.eqn is None and weight.operands and weight.operands[0].path == path:
        return True
    return any(in_rows(operand, path) for operand in weight.operands)


def is_as_large(weight: Weight, path: Path) -> bool:
    """Whether a weight has an entry for each entry of a variable, or of a row of it in a loop."""
    shape = _shape_of(weight, path)
    try:
        own = shape is not None and entrywise(weight, path)
        return own and places(weight, path, shape or ()).shape == weight.shape
    except UnknownWeightError:
        return False


def _shape_of(weight: Weight, path: Path) -> tuple[int, ...] | None:
    """The shape of a variable, or of a row of it in a loop, in the trace."""
    if weight.path == path or (weight.eqn is None and weight.operands and weight.operands[0].path == path):
        return weight.shape
    found = (_shape_of(operand, path) for operand in weight.operands if path in operand.variables)
    return next(found, None)


def _fits(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    """Whether an array can be broadcast to a shape."""
    pairs = zip(reversed(shape), reversed(wanted), strict=False)
    return len(shape) <= len(wanted) and all(n in (1, m) for n, m in pairs)


def in_places(
    weight: Weight, path: Path, arrays: Mapping[Path, Array], row: int | Array = 0, most: int | None = None
) -> jax.Array:
    """The entries of a weight, each in the place of the variable's entry that it is computed of.

    Args:
      weight: the weight.
      path: a variable; the weight has an entry for each entry of it, or of one row of it in a loop.
      arrays: the variables.
      row: which row.
      most: see `Evaluation`.

    Raises:
      UnknownWeightError: the weight has other entries than the variable.
    """
    if not entrywise(weight, path):
        raise UnknownWeightError("not entrywise")
    if (
        most is None
        and has_tables(weight)
        and np.shape(arrays[path])[in_rows(weight, path) :] != _shape_of(weight, path)
    ):
        raise UnknownWeightError("tables")  # which of their entries belong to these neurons is not known here
    shape = np.shape(arrays[path])[in_rows(weight, path) :]
    value, place = Evaluation(arrays, row, most).value(weight), places(weight, path, shape)
    if place.size != math.prod(shape) or not _fits(np.shape(value), place.shape):
        raise UnknownWeightError("of another size")
    return jnp.broadcast_to(value, place.shape).ravel()[np.argsort(place, axis=None)].reshape(shape)
