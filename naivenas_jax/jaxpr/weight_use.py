"""How a variable becomes the weight that reads neurons, where a stored 0 is no weight of 0.

Most weights are their variables, moved or scaled: homogeneous of degree 1 in all variables that lie on the neurons
that are read. Of all others is found out which variable switches a neuron off, and where: of ``sigmoid(w) * z`` it is z
at 0, of ``w - 0.3`` w at 0.3, of ``w - zero_point`` w wherever zero_point is, of ``softplus(w)`` w so far down that
nothing is left.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr

from naivenas_jax.errors import StructureError
from naivenas_jax.jaxpr.weight_expression import Origin, Weight, WeightRead, weight_reads
from naivenas_jax.jaxpr.weight_root import Found, root_of, whole_root
from naivenas_jax.jaxpr.weight_value import ANY, UnknownWeightError, degree, in_places, in_rows, is_as_large
from naivenas_jax.paths import Path, path_text
from naivenas_jax.typing import Array


@dataclass(frozen=True, eq=False)
class WeightUse:
    """What a variable is in weights that are functions of variables.

    Attributes:
      path: the variable.
      weights: the weights that it switches off; of one that switches nothing off, a weight that it is part of.
      zero: where it is to be, for these weights to be 0; None: another variable switches them off.
      linear: whether the weights are homogeneous of degree 1 in it.
      holds: whether the size of the weight is told by this variable, and not by another one that it is made of.
      scope: the vertices that the paths of the weights lie below.
    """

    path: Path
    weights: tuple[Weight, ...] = field(repr=False)
    zero: Found | None
    linear: bool = False
    holds: bool = True
    scope: Path = ()

    def within(self, scope: Path) -> WeightUse:
        """The same, for a program that a vertex computes: variables lie below its scope."""
        return replace(self, scope=(*scope, *self.scope))

    def together(self, other: WeightUse | None) -> WeightUse:
        """The same variable in other weights too, which are off where these are."""
        if other is None or self.zero is None or other.zero is None:
            return self
        near = [zero.near for zero in (self.zero, other.zero) if zero.near is not None]
        least = min(near, key=lambda each: abs(each - self.zero.number)) if len(near) == 2 else None  # type: ignore[union-attr]  # see above
        weights, zero = (*other.weights, *self.weights), replace(self.zero, near=least)
        return replace(self, weights=weights, zero=zero, linear=self.linear and other.linear)

    @property
    def switches(self) -> bool:
        """Whether this variable is the one that switches neurons off."""
        return self.zero is not None

    @property
    def near(self) -> float | None:
        """Where weights are too small to count, but have a derivative; None where they have one at 0 as well."""
        return None if self.zero is None else self.zero.near

    def switched_off(self, arrays: Mapping[Path, Array]) -> Array | float:
        """The entries of the variable with which the weights are 0, as a number or in the variable's shape.

        Args:
          arrays: all variables of the network by path, as they are now.

        Raises:
          StructureError: if the weight cannot be computed at their sizes.
        """
        assert self.zero is not None, self.path
        if not self.zero.affine:
            return self.zero.number
        own = self._own(arrays)
        try:
            if jnp.issubdtype(own.dtype, jnp.integer):
                return self._whole(arrays, own)
            value, slope = self._with_slope(arrays)
        except UnknownWeightError as error:
            raise StructureError(
                f"New entries of {path_text(self.path)} are to make a weight that it is part of zero, and that weight "
                f"cannot be computed at the new sizes ({error}). Leave the neurons that it reads as they are."
            ) from error
        return own - value / slope

    def _whole(self, arrays: Mapping[Path, Array], own: Array) -> Array:
        """The whole numbers with which the weights are 0."""
        root = whole_root(lambda array: self._value(arrays, array), np.shape(own), own.dtype)
        if root is None:
            raise StructureError(
                f"{path_text(self.path)} holds whole numbers ({own.dtype}), and a weight that it is part of is 0 for "
                "none of them: what is subtracted (a zero point) is no such number, or too large. Round it into that "
                "range, or leave the neurons that it reads as they are."
            )
        return root

    def value(self, arrays: Mapping[Path, Array]) -> Array | None:
        """The entries of the weight, each in the place of the variable's entry that it is computed of.

        None where the weight has other entries than the variable.
        """
        try:
            return self._value(arrays, jnp.asarray(self._own(arrays)))
        except UnknownWeightError:
            return None

    def value_and_slope(self, arrays: Mapping[Path, Array]) -> tuple[Array, Array] | None:
        """`value`, and the derivative of each entry by the variable's."""
        try:
            return self._with_slope(arrays)
        except UnknownWeightError:
            return None

    def _with_slope(self, arrays: Mapping[Path, Array]) -> tuple[Array, Array]:
        own = jnp.asarray(self._own(arrays))
        if jnp.issubdtype(own.dtype, jnp.integer):
            value, at = self._value(arrays, own), [self._value(arrays, jnp.full_like(own, n)) for n in (0, 1)]
            return value, at[1] - at[0]
        value, pulled = jax.vjp(lambda array: self._value(arrays, array), own)
        return value, pulled(jnp.ones_like(value))[0]

    def _own(self, arrays: Mapping[Path, Array]) -> Array:
        return arrays[self._full(self.path)]

    def _full(self, path: Path) -> Path:
        return (path[0], *self.scope, *path[1:])

    def _value(self, arrays: Mapping[Path, Array], own: jax.Array) -> jax.Array:
        weight = self.weights[0]
        given = {path: arrays[self._full(path)] for path in weight.variables} | {self.path: own}
        if not in_rows(weight, self.path):
            return in_places(weight, self.path, given)
        return jax.vmap(lambda row: in_places(weight, self.path, given, row))(jnp.arange(len(own)))


class WeightUses(NamedTuple):
    """What the weights of a program are.

    Attributes:
      uses: for each variable that is part of a weight that is a function of variables, what it is there.
      never_zero: for dimensions of variables on which neurons are read by weights that nothing switches off, why.
    """

    uses: Mapping[Path, WeightUse]
    never_zero: Mapping[Origin, str]


class _Read(NamedTuple):
    """A weight, and the variables that lie on neurons which it reads."""

    weight: Weight
    origin: frozenset[Origin]

    @property
    def paths(self) -> frozenset[Path]:
        return frozenset(path for path, _ in self.origin)


def weight_uses(program: ClosedJaxpr, paths: Sequence[Path | None], reads: Callable[[Origin], bool]) -> WeightUses:
    """Which variables are parts of weights that are functions of variables, and what switches each of these off.

    Args:
      program: a traced function.
      paths: for each of its arguments the variable that it is; None: an activation.
      reads: whether neurons are read on a dimension of a variable.

    >>> import jax.numpy as jnp
    >>> traced = jax.make_jaxpr(lambda w, x: x @ (w - 0.5))(jnp.ones((2, 3)), jnp.ones((5, 2)))
    >>> uses, never_zero = weight_uses(traced, [("params", "w"), None], lambda origin: origin[1] == 0)
    >>> float(uses["params", "w"].switched_off({("params", "w"): jnp.zeros((2, 3))})[0, 0]), dict(never_zero)
    (0.5, {})
    """
    parts = (part for read in weight_reads(program, paths) for part in _parts(read))
    arguments = zip(paths, program.jaxpr.invars, strict=True)
    shapes = {path: var.aval.shape for path, var in arguments if path is not None}
    every = [_Read(read.weight, own) for read in parts for own in _factors(read, reads, shapes)]
    plain = [read for read in every if degree(read.weight, read.paths) in (1.0, ANY)]
    if len(plain) == len(every):
        return WeightUses({}, {})
    dtypes = {p: var.aval.dtype for p, var in zip(paths, program.jaxpr.invars, strict=True) if p is not None}
    return _Deciding(dtypes, frozenset().union(*(read.paths for read in plain))).decided(
        [read for read in every if read not in plain], plain
    )


def _factors(
    read: WeightRead, reads: Callable[[Origin], bool], shapes: Mapping[Path, tuple[int, ...]]
) -> list[frozenset[Origin]]:
    """The dimensions of variables on which neurons are read, those of one factor of the neurons together.

    A variable that is smaller than the weight along the dimension lies on a factor of the neurons (of a Kronecker
    product for one), and switches no neurons off but those. Of such a weight each variable answers for itself.
    """
    origin = frozenset(filter(reads, read.origin))
    if all(shapes[path][dim] == read.weight.shape[read.dim] for path, dim in origin):
        return [origin] if origin else []
    return [frozenset(each for each in origin if each[0] == path) for path in sorted({path for path, _ in origin})]


def _parts(read: WeightRead) -> Iterator[WeightRead]:
    """A weight that consists of several, side by side, is these."""
    if read.weight.eqn is None or read.weight.eqn.primitive.name != "concatenate":
        yield read
        return
    for operand in read.weight.operands:
        yield from _parts(WeightRead(operand, read.dim))


@dataclass(frozen=True)
class _Deciding:
    """Decides which variables switch weights off.

    Attributes:
      dtypes: of the variables.
      plain: the variables that are weights as they are somewhere, and are 0 there.
    """

    dtypes: Mapping[Path, np.dtype]
    plain: Collection[Path]

    def decided(self, functions: Sequence[_Read], plain: Sequence[_Read]) -> WeightUses:
        uses: dict[Path, WeightUse] = {}
        never: dict[Origin, str] = {}
        for read in functions:
            found = self._switches(read, uses)
            if not found or not read.paths.isdisjoint(set(self.plain) - {use.path for use in found}):
                never.update(dict.fromkeys(read.origin, _reason(read)))
            uses.update((use.path, use.together(uses.get(use.path))) for use in found)
        for read in functions:
            for path in read.paths - uses.keys():
                uses[path] = WeightUse(path, (read.weight,), None)
        for read in functions:
            own = sorted(read.paths, key=lambda path: (not uses[path].switches, path))
            holder = next((path for path in own if is_as_large(read.weight, path)), None)
            for path in own:
                holds = path == holder or path in self.plain or (holder is None and uses[path].switches)
                uses[path] = replace(
                    uses[path], holds=uses[path].holds and (holds or (holder is None and path == own[0]))
                )
        for read in _touching(plain, uses):  # parts of the same weights: what is told of some is told of all
            for path in read.paths - uses.keys():
                uses[path] = WeightUse(path, (read.weight,), Found(0.0), linear=True)
        return WeightUses(uses, never)

    def _switches(self, read: _Read, uses: Mapping[Path, WeightUse]) -> list[WeightUse]:
        """The variables that switch a weight off; those that do so elsewhere are asked first. None are found: empty."""
        for path in sorted(read.paths, key=lambda path: (path not in uses, path not in self.plain, path)):
            if degree(read.weight, (path,)) == 1 and self._fits(path, Found(0.0), uses):
                return [WeightUse(path, (read.weight,), Found(0.0), linear=True)]
        single = [(path,) for path in sorted(read.paths, key=lambda path: (path not in uses, path))]
        for paths in dict.fromkeys((*single, tuple(sorted(read.paths)))):  # parts of one weight are off together
            found = root_of(read.weight, paths, self.dtypes)
            if found is not None and all(self._fits(path, found, uses) for path in paths):
                near = None if set(paths) & set(self.plain) else found.near
                return [WeightUse(path, (read.weight,), replace(found, near=near)) for path in paths]
        return []

    def _fits(self, path: Path, found: Found, uses: Mapping[Path, WeightUse]) -> bool:
        """Whether a variable can be there: all weights that it switches off have to agree."""
        others = [use.zero for use in (uses.get(path),) if use is not None]
        others += [Found(0.0)] if path in self.plain else []
        return all(
            other is not None and (other.number, other.affine) == (found.number, found.affine) for other in others
        )


def _touching(reads: Iterable[_Read], uses: Mapping[Path, WeightUse]) -> list[_Read]:
    """The reads that share variables with these, directly or through others."""
    rest, found, known = list(reads), list[_Read](), set(uses)
    while more := [read for read in rest if not known.isdisjoint(read.paths)]:
        found += more
        known.update(*(read.paths for read in more))
        rest = [read for read in rest if read not in more]
    return found


def _reason(read: WeightRead | _Read) -> str:
    names = ", ".join(sorted(path_text(path[1:]) for path, _ in read.origin))
    return (
        f"the weight that reads it is a function of {names} that is 0 for no value of it, as far as can be told, so "
        "that no parameter can switch a neuron off"
    )
