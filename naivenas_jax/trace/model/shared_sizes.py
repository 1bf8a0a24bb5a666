"""The sizes of one trace of a model, carried over to another one.

Each way to call a model is traced and analysed for itself, so that two traces cut the same dimension of a variable into
runs in two ways: a call that uses only a part of the neurons cuts where the part ends. A size is carried over between
the places where both are cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from naivenas_jax.errors import StructureError
from naivenas_jax.sizes.origins import Origins, carried
from naivenas_jax.sizes.ties import Ties


class SharedAxis(NamedTuple):
    """The same dimension in two traces.

    Attributes:
      what: the dimension, in words.
      base: its axis in the trace whose sizes are known.
      other: its axis in the other trace.
    """

    what: str
    base: str
    other: str


def with_sizes_of(now: Ties, base: Origins, other: Ties, axes: Iterable[SharedAxis]) -> tuple[Ties, Origins]:
    """The ties of another trace with the present sizes, and which of its neurons there are now.

    Args:
      now: the ties of one trace, with the present sizes.
      base: which of its neurons there are now, with its ties of the original sizes.
      other: the ties of the other trace with the original sizes.
      axes: the dimensions that both have.

    Raises:
      StructureError: if the other trace needs a size that changed to be what it was.
    """
    state = _Carried(now, base, other)
    for axis in axes:
        if not state.carry(base.ties.axes[axis.base], other.axes[axis.other]):
            raise StructureError(
                f"{axis.what} has been resized, and called like this the model does not allow it (other inputs, "
                "keyword arguments or mode than it was imported with). Import it with these arguments, so that its "
                "handles are right for them."
            )
    return other.resized(state.sizes), carried(base, other, state.same)


@dataclass(frozen=True)
class _Carried:
    """The sizes that runs of the other trace have got so far, and the runs of the first trace that they are."""

    now: Ties
    origins: Origins
    other: Ties
    sizes: dict[int, int] = field(default_factory=dict)
    same: list[tuple[Sequence[int], int]] = field(default_factory=list)

    @property
    def base(self) -> Ties:
        """The ties of the trace whose sizes are known, with the original sizes."""
        return self.origins.ties

    def carry(self, base_row: tuple[int, ...], row: tuple[int, ...]) -> bool:
        """Carry the sizes of one dimension over; False if the other trace does not allow them."""
        left, right = list(base_row), list(row)
        while left and right:
            theirs, mine = [left.pop(0)], [right.pop(0)]
            while (n := self.base.length(theirs)) != (m := self.other.length(mine)):
                if m < n:
                    mine.append(right.pop(0))
                else:
                    theirs.append(left.pop(0))
            if not self._carry_part(theirs, mine):
                return False
        return True

    def _carry_part(self, theirs: list[int], mine: list[int]) -> bool:
        """Carry the size of some runs over to runs that are the same neurons in the other trace."""
        alone = len(mine) == 1
        factors = self.base.products.get(theirs[0], ()), self.other.products.get(mine[0], ())
        if alone and len(theirs) == 1 and factors[1] and len(factors[0]) == len(factors[1]):
            return all(self.carry(a, b) for a, b in zip(*factors, strict=True))
        size, before = self.now.length(theirs), self.base.length(theirs)
        if not alone or factors[1]:
            return size == before and not self.origins.changed(theirs)
        self.same.append((theirs, mine[0]))
        return self.sizes.setdefault(mine[0], size) == size and (size == before or mine[0] not in self.other.fixed)
