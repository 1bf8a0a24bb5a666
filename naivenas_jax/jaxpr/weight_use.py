"""How a variable becomes the weight that reads neurons, where a stored 0 is no weight of 0.

Most weights are their variables, moved or scaled: homogeneous of degree 1 in all variables that lie on the neurons
that are read. Of all others is found out which variable switches a neuron off, and where: of ``sigmoid(w) * z`` it is z
at 0, of ``w - 0.3`` w at 0.3, of ``w - zero_point`` w wherever zero_point is, of ``softplus(w)`` w so far down that
nothing is left.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr

from naivenas_jax.jaxpr.weight_expression import Origin, Weight, WeightRead, weight_reads
from naivenas_jax.jaxpr.weight_root import Found, root_of
from naivenas_jax.jaxpr.weight_value import UnknownWeightError, degree, in_places, in_rows, is_as_large
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
        """
        assert self.zero is not None, self.path
        if not self.zero.affine:
            return self.zero.number
        value, slope = self._with_slope(arrays)
        return self._own(arrays) - value / slope

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
    every = [_Read(read.weight, frozenset(filter(reads, read.origin))) for read in weight_reads(program, paths)]
    every = [read for read in every if read.origin]
    plain = [read for read in every if degree(read.weight, read.paths) == 1]
    if len(plain) == len(every):
        return WeightUses({}, {})
    dtypes = {p: var.aval.dtype for p, var in zip(paths, program.jaxpr.invars, strict=True) if p is not None}
    return _Deciding(dtypes, frozenset().union(*(read.paths for read in plain))).decided(
        [read for read in every if read not in plain], plain
    )


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
            found = self._switch(read, uses)
            if found is None or not read.paths.isdisjoint(set(self.plain) - {found.path}):
                never.update(dict.fromkeys(read.origin, _reason(read)))
            else:
                before = uses.get(found.path)
                uses[found.path] = found if before is None else replace(before, weights=(*before.weights, read.weight))
        for read in functions:
            for path in read.paths - uses.keys():
                uses[path] = WeightUse(path, (read.weight,), None)
        for read in functions:
            own = sorted(read.paths, key=lambda path: (not uses[path].switches, path))
            holder = next((path for path in own if is_as_large(read.weight, path)), own[0])
            for path in own:
                uses[path] = replace(uses[path], holds=uses[path].holds and (path == holder or path in self.plain))
        for read in _touching(plain, uses):  # parts of the same weights: what is told of some is told of all
            for path in read.paths - uses.keys():
                uses[path] = WeightUse(path, (read.weight,), Found(0.0), linear=True)
        return WeightUses(uses, never)

    def _switch(self, read: _Read, uses: Mapping[Path, WeightUse]) -> WeightUse | None:
        """The variable that switches a weight off; one that does so elsewhere is asked first."""
        for path in sorted(read.paths, key=lambda path: (path not in uses, path not in self.plain, path)):
            if degree(read.weight, (path,)) == 1 and self._fits(path, Found(0.0), uses):
                return WeightUse(path, (read.weight,), Found(0.0), linear=True)
        for path in sorted(read.paths, key=lambda path: (path not in uses, path)):
            found = root_of(read.weight, path, self.dtypes)
            if found is not None and self._fits(path, found, uses):
                return WeightUse(path, (read.weight,), found)
        return None

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
