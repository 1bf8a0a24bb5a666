"""The window of a convolution along one spatial axis, and what becomes of it at another size.

With stride s, dilation d and ``low`` positions of padding before the first, position p of the output is

    y[p] = sum over t of  x[p s - low + t d] w[t]

and so what tap t reads depends on ``low``. At another size, ``low' = low + o d`` lets tap ``t + o`` read what tap t
read: o is the offset of the old taps among the new ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

Padding = str | tuple[int, int]


@dataclass(frozen=True)
class Window:
    """One spatial axis of a convolution.

    Attributes:
      size: the number of taps.
      dilation: the distance of two taps.
      stride: the distance of two outputs.
      padding: one of Flax's names, or how many positions are added before and after.
      transposed: whether it is the window of a transposed convolution.
      flipped: whether the kernel holds its taps in reverse order.
    """

    size: int
    dilation: int = 1
    stride: int = 1
    padding: Padding = "SAME"
    transposed: bool = False
    flipped: bool = False

    def resized(self, size: int) -> Resized:
        """The window with another number of taps, as far as can be centred where it was."""
        if isinstance(self.padding, str) and self.padding != "VALID":
            return self._named(size)
        low, high = (0, 0) if isinstance(self.padding, str) else self.padding
        offset = (size - 1) // 2 - (self.size - 1) // 2
        added = (low + offset * self.dilation, high + (size - self.size - offset) * self.dilation)
        return Resized(replace(self, size=size, padding=added), self._stored(offset, size))

    def _named(self, size: int) -> Resized:
        offset, rest = divmod(self._low(size) - self._low(self.size), self.dilation)
        why = None
        if rest:
            why = f"{self.size} and {size} taps at a distance of {self.dilation} have no common centre"
        elif self.padding == "SAME" and self.stride > 1 and not self.transposed:
            why = f"what padding 'SAME' adds with stride {self.stride} depends on the number of positions"
        return Resized(replace(self, size=size), self._stored(offset, size), why)

    def _low(self, size: int) -> int:
        """How many positions are padded before the first, with stride 1 where that makes a difference."""
        extent = (size - 1) * self.dilation + 1
        if self.padding == "CAUSAL":
            return extent - 1
        if not self.transposed:
            return (extent - 1) // 2
        return extent - 1 if self.stride > extent - 1 else -(-(extent + self.stride - 2) // 2)

    def _stored(self, offset: int, size: int) -> int:
        return size - self.size - offset if self.flipped else offset


@dataclass(frozen=True)
class Resized:
    """What becomes of a window.

    Attributes:
      window: the new one.
      offset: where the first of the old taps is among the new ones, as the kernel holds them.
      shifts: why the taps do not all read what they read before; None: they do.
    """

    window: Window
    offset: int
    shifts: str | None = None

    def source(self, before: int) -> list[int]:
        """For each new tap which of the old ones it is; -1 for none.

        >>> Window(3).resized(5).source(3), Window(5).resized(2).source(5)
        ([-1, 0, 1, 2, -1], [2, 3])
        """
        old = (tap - self.offset for tap in range(self.window.size))
        return [tap if 0 <= tap < before else -1 for tap in old]
