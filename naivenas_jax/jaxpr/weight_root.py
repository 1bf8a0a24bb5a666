"""Where a weight that is a function of a variable is zero, found by trying the function on made-up numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from naivenas_jax.jaxpr.weight_expression import Weight, has_tables
from naivenas_jax.jaxpr.weight_value import Evaluation, UnknownWeightError, in_places, in_rows
from naivenas_jax.paths import Path
from naivenas_jax.typing import Array

#: Functions are tried on arrays of so many entries along each dimension, if they can be; None: as many as there are.
_SIZES = (3, None)
#: Where an exponential, a sigmoid or a softplus has nothing left, in any precision.
_FAR = (-1e4, 1e4)
#: How many numbers are tried at once.
_AT_ONCE = 64
Draw: TypeAlias = Mapping[Path, jax.Array]
_GRID = np.concatenate([-np.logspace(2.5, -2.5, 26), [0.0], np.logspace(-2.5, 2.5, 26)])


@dataclass(frozen=True)
class Found:
    """Where a weight is zero.

    Attributes:
      number: the value of every entry of the variable there.
      affine: whether it depends on other variables instead: the weight is affine in the variable.
      near: where the weight is too small to count, but has a derivative; None: it has one at zero as well.
    """

    number: float
    affine: bool = False
    near: float | None = None


@dataclass(frozen=True, eq=False)
class _Trial:
    """A weight as a function of one variable, at made-up numbers.

    Attributes:
      weight: the weight.
      paths: the variable; or several, all of which have the same entries then.
      draws: several choices of numbers for all variables.
      most: how many entries of constants take part along each dimension.
    """

    weight: Weight
    paths: tuple[Path, ...]
    draws: tuple[Draw, ...]
    most: int | None

    @property
    def dtype(self) -> np.dtype:
        """Of the variable."""
        return np.dtype(jnp.result_type(*(self.draws[0][path] for path in self.paths)))

    def _at(self, number: jax.Array, others: Draw) -> jax.Array:
        """The entries of the weight where all entries of the variable are the same; of complex ones the modulus."""
        own = {path: jnp.broadcast_to(number, others[path].shape).astype(others[path].dtype) for path in self.paths}
        return _real(Evaluation({**others, **own}, 0, self.most).value(self.weight))

    @cached_property
    def _at_all(self) -> Callable[[jax.Array, Draw], jax.Array]:
        """Compiled once, for all numbers and draws."""

        def at_all(numbers: jax.Array, others: Draw) -> jax.Array:
            return jax.vmap(lambda number: self._at(number, others).ravel())(numbers)

        return jax.jit(at_all)

    def at_numbers(self, numbers: Sequence[float] | np.ndarray, draw: int = 0) -> np.ndarray:
        """Shape (numbers, entries): the entries of the weight where all entries of the variable are the same."""
        padded = np.resize(np.asarray(numbers, np.float64), _AT_ONCE)
        made = self._at_all(jnp.asarray(padded, self.dtype), self.draws[draw])
        return np.asarray(made, np.float64)[: len(numbers)]

    @cached_property
    def _in_rows(self) -> Callable[[jax.Array, Draw], jax.Array]:
        """Shape (dimensions, entries): the weight where the last entries along a dimension are one number."""

        def in_rows(number: jax.Array, others: Draw) -> jax.Array:
            def value(d: int) -> jax.Array:
                last = (slice(None),) * d + (-1,)
                own = {p: others[p].at[last].set(number.astype(others[p].dtype)) for p in self.paths}
                return jnp.ravel(jnp.asarray(Evaluation({**others, **own}, 0, self.most).value(self.weight)))

            return jnp.stack([value(d) for d in range(others[self.paths[0]].ndim)])

        return jax.jit(jax.vmap(in_rows, (0, None)))

    def moved_by_rows(self, numbers: np.ndarray, root: float) -> np.ndarray:
        """Shape (numbers, entries): how far the weight is from where the last entries of a dimension are at a root."""
        padded = np.resize(np.asarray([root, *numbers], np.float64), _AT_ONCE)
        made = np.asarray(self._in_rows(jnp.asarray(padded, self.dtype), self.draws[0]))
        moved: np.ndarray = np.abs(made[1 : len(numbers) + 1] - made[0])
        return moved.reshape(len(numbers), -1)

    @cached_property
    def scale(self) -> float:
        """How large entries of the weight are."""
        at = jax.jit(lambda draw: jnp.abs(Evaluation(draw, 0, self.most).value(self.weight)))
        return max(float(np.nanmedian(np.asarray(at(draw), np.float64))) for draw in self.draws)

    def zero_at(self, number: float, tolerance: float) -> bool:
        """Whether all entries are zero there, whatever the other variables are."""
        return all(bool((np.abs(self.at_numbers([number], i)) <= tolerance).all()) for i in range(len(self.draws)))

    @cached_property
    def _slope(self) -> Callable[[jax.Array, Draw], jax.Array]:
        def slope(number: jax.Array, others: Draw) -> jax.Array:
            own = {path: jnp.broadcast_to(number, others[path].shape).astype(others[path].dtype) for path in self.paths}

            def value(arrays: Draw) -> jax.Array:
                return jnp.asarray(Evaluation({**others, **arrays}, 0, self.most).value(self.weight))

            made, pulled = jax.vjp(value, own)  # some functions have no other rule
            (slopes,) = pulled(jnp.ones_like(made))
            return jnp.stack([jnp.abs(each).max(initial=0.0) for each in slopes.values()]).max()

        return jax.jit(slope)

    def slope_at(self, number: float) -> float:
        """The largest derivative of an entry there."""
        own = jnp.asarray(number, self.dtype)
        return float(self._slope(own, self.draws[0])) if jnp.issubdtype(self.dtype, jnp.inexact) else 1.0


def _real(array: Array) -> jax.Array:
    return jnp.abs(array) if jnp.iscomplexobj(array) else jnp.asarray(array)


def root_of(weight: Weight, paths: tuple[Path, ...], dtypes: Mapping[Path, np.dtype]) -> Found | None:
    """Where a weight is zero as a function of some of its variables; None if no place is found.

    Args:
      weight: the weight.
      paths: a variable; or several, which are all to have the same entries.
      dtypes: of all variables of the weight.

    >>> import jax.numpy as jnp
    >>> from naivenas_jax.jaxpr.weight_expression import weight_reads
    >>> traced = jax.make_jaxpr(lambda w, x: x @ jnp.exp(w))(jnp.ones((2, 3)), jnp.ones((5, 2)))
    >>> (read,) = weight_reads(traced, [("w",), None])
    >>> root_of(read.weight, (("w",),), {("w",): np.dtype("float32")}).number
    -10000.0
    """
    _remember_rules(weight)
    for most in _SIZES:
        try:
            with jax.ensure_compile_time_eval(), np.errstate(all="ignore"):
                return _root(_Trial(weight, paths, _draws(weight, dtypes, most), most))
        except UnknownWeightError:
            continue
    return None


def _remember_rules(weight: Weight) -> None:
    """Trace the rules for derivatives of functions in a weight, which JAX remembers, and others evaluate as well.

    Traced while numbers are computed at once, they would have arrays of one shape in them as constants.
    """
    if weight.eqn is not None and (fun := weight.eqn.params.get("jvp_jaxpr_fun")) is not None:
        moving = weight.eqn.invars[weight.eqn.params["num_consts"] :]
        fun.call_wrapped(*(not jnp.issubdtype(atom.aval.dtype, jnp.inexact) for atom in moving))
    for operand in weight.operands:
        _remember_rules(operand)


def _draws(weight: Weight, dtypes: Mapping[Path, np.dtype], most: int | None) -> tuple[dict[Path, jax.Array], ...]:
    """Positive numbers, of which there are roots and logarithms; and numbers of any sign, if the weight has those."""
    random, shapes = np.random.default_rng(0), dict(_shapes(weight))

    def draw(low: float) -> dict[Path, jax.Array]:
        cut = {path: [n if most is None else min(n, most) for n in shape] for path, shape in shapes.items()}
        return {path: jnp.asarray(random.uniform(low, 1.2, shape), dtypes[path]) for path, shape in cut.items()}

    positive, signed = (draw(0.2), draw(0.2)), draw(-1.2)
    value = jax.jit(lambda draw: _real(Evaluation(draw, 0, most).value(weight)))
    finite = np.isfinite(np.asarray(value(signed), np.float64)).all()
    return (*positive, signed) if finite else positive


def _shapes(weight: Weight) -> Iterator[tuple[Path, tuple[int, ...]]]:
    if weight.path is not None:
        yield weight.path, weight.shape
    for operand in weight.operands:
        yield from _shapes(operand)


def _root(trial: _Trial) -> Found | None:
    scale = trial.scale
    if not np.isfinite(scale):
        return None
    dtype = jnp.promote_types(trial.dtype, jnp.bfloat16)
    small = 32 * scale * float(jnp.finfo(dtype).eps)  # type: ignore[no-untyped-call]  # jax does not type it
    if trial.zero_at(0.0, 0.0):
        return Found(0.0, near=_near(trial, 0.0, scale))
    if not has_tables(trial.weight) and (_affine(trial, small) or _affine_in_whole_numbers(trial)):
        return Found(0.0, affine=True)
    for number in _crossings(trial):
        if trial.zero_at(number, small):
            return Found(number, near=_near(trial, number, scale))
    for number in _FAR:
        if trial.zero_at(number, 0.0):
            return Found(number, near=_near(trial, number, scale))
    return None


def _affine(trial: _Trial, small: float) -> bool:
    """Whether one step of Newton's method goes to a zero, wherever it starts."""
    path = trial.paths[0]
    if len(trial.paths) > 1 or not jnp.issubdtype(trial.dtype, jnp.floating):
        return False
    first = in_rows(trial.weight, path)  # of a loop, the first row is tried

    def after_a_step(start: jax.Array, others: Draw) -> jax.Array:
        def value(own: jax.Array) -> jax.Array:
            return in_places(trial.weight, path, {**others, path: own}, 0, trial.most)

        made, pulled = jax.vjp(value, start)
        (slope,) = pulled(jnp.ones_like(made))
        return value(start.at[0].add(-made / slope[0]) if first else start - made / slope)

    step = jax.jit(after_a_step)
    try:
        ends = [step(factor * draw[path], draw) for draw in trial.draws for factor in (1, -3)]
    except UnknownWeightError:
        return False
    return all(bool((np.abs(np.asarray(end)) <= small).all()) for end in ends)


def _affine_in_whole_numbers(trial: _Trial) -> bool:
    """Whether a line through two whole numbers goes to a zero that is one too, wherever other whole numbers are."""
    path = trial.paths[0]
    if len(trial.paths) > 1 or not jnp.issubdtype(trial.dtype, jnp.integer):
        return False
    random = np.random.default_rng(1)

    def drawn(others: Draw) -> dict[Path, jax.Array]:
        return {
            each: jnp.asarray(random.integers(*_whole_numbers(array.dtype), array.shape), array.dtype)
            if jnp.issubdtype(array.dtype, jnp.integer)
            else array
            for each, array in others.items()
        }

    def has_root(draw: Draw) -> bool:
        def value(own: jax.Array) -> jax.Array:
            return in_places(trial.weight, path, {**draw, path: jnp.broadcast_to(own, draw[path].shape)}, 0, trial.most)

        shape = draw[path].shape[in_rows(trial.weight, path) :]  # of a loop, all rows are alike here
        return whole_root(value, shape, trial.dtype) is not None

    try:
        with jax.ensure_compile_time_eval():
            return all(has_root(drawn(draw)) for draw in trial.draws)
    except UnknownWeightError:
        return False


def _whole_numbers(dtype: np.dtype) -> tuple[int, int]:
    """The smallest number to draw, and the one after the largest: of wide ones those of a byte."""
    info = jnp.iinfo(dtype)  # type: ignore[no-untyped-call]  # jax does not type it
    return max(int(info.min), -128), min(int(info.max), 127) + 1


def whole_root(
    value: Callable[[jax.Array], jax.Array], shape: tuple[int, ...], dtype: np.dtype
) -> Int[np.ndarray, "*shape"] | None:
    """The whole numbers at which a function that is affine in each of them is 0; None: there are none of the dtype.

    Args:
      value: a function of an array of whole numbers, entry by entry.
      shape: of the array.
      dtype: of the array.

    >>> whole_root(lambda q: 0.5 * (q - 3.0), (2,), np.dtype("int8"))
    array([3, 3], dtype=int8)
    """
    info = jnp.iinfo(dtype)  # type: ignore[no-untyped-call]  # jax does not type it
    least, most = int(info.min), int(info.max)
    root = np.zeros(shape, dtype)
    for _ in range(3):  # far from the zero a slope is not exact
        step = np.where(root < most, 1, -1)
        here, beside = (np.asarray(value(jnp.asarray(own)), np.float64) for own in (root, (root + step).astype(dtype)))
        with np.errstate(all="ignore"):
            change = np.where(here == 0, 0.0, -here * step / (beside - here))
        root = np.clip(root + np.round(np.nan_to_num(change)), least, most).astype(dtype)
    return root if (np.asarray(value(jnp.asarray(root))) == 0).all() else None


def _crossings(trial: _Trial) -> Iterator[float]:
    """Numbers at which all entries change their sign."""
    if jnp.issubdtype(trial.dtype, jnp.integer):
        info = jnp.iinfo(trial.dtype)  # type: ignore[no-untyped-call]  # jax does not type it
        whole = np.arange(max(-256.0, info.min), min(256.0, info.max) + 1)
        parts = np.split(whole, range(_AT_ONCE, len(whole), _AT_ONCE))
        found = [(trial.at_numbers(part) == 0).all(1) for part in parts]
        yield from whole[np.concatenate(found)].tolist()
        return
    signs = _signs(trial, _GRID)
    for low, high, a, b in zip(_GRID, _GRID[1:], signs, signs[1:], strict=False):
        if a * b == -1:
            yield _narrowed(low, high, lambda between: _signs(trial, between) == a)  # noqa: B023


def _signs(trial: _Trial, numbers: np.ndarray) -> np.ndarray:
    """For each number the sign that all entries have there; NaN where they differ."""
    signs = np.sign(trial.at_numbers(numbers))
    return np.where((signs == signs[:, :1]).all(1), signs[:, 0], np.nan)


def _near(trial: _Trial, root: float, scale: float) -> float | None:
    """Where entries are a millionth of what they are, between a zero without derivative and usual numbers.

    That holds for all entries of the variable together, and for the last ones along a dimension beside usual others,
    of which the weight may be a product.
    """
    if trial.slope_at(root) > 1e-6 * scale:
        return None
    usual = float(np.median(np.asarray(_real(trial.draws[0][trial.paths[0]]), np.float64)))
    small = 1e-6 * scale

    def holds(between: np.ndarray) -> np.ndarray:
        largest = np.maximum(trial.at_numbers(between).max(1), trial.moved_by_rows(between, root).max(1))
        return np.asarray(largest <= small)

    near = _narrowed(root, usual, holds)
    return near if trial.slope_at(near) > 0 else None


def _narrowed(low: float, high: float, holds: Callable[[np.ndarray], np.ndarray]) -> float:
    """The last number from ``low`` to ``high`` up to which something holds."""
    for _ in range(8):
        between = np.linspace(low, high, 33)
        last = int(np.argmin([*holds(between)[1:], False]))
        low, high = between[last], between[min(last + 1, 32)]
    return float(low)
