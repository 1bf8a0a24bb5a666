"""What a user asks of sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from naivenas_jax.errors import RequestError

_LARGEST = 10**9


@dataclass(frozen=True)
class To:
    """An absolute size. Made by `to`."""

    size: int


@dataclass(frozen=True)
class Relaxed:
    """A wish and not a demand. Made by `relaxed`."""

    wish: Any


def to(size: int) -> To:
    """Ask for an absolute size instead of a change.

    >>> to(16)
    To(size=16)
    """
    if isinstance(size, To):
        return size
    return To(_whole(size, "nas.to takes a whole number of neurons"))


def relaxed(wish: int | To | Relaxed | tuple) -> Relaxed:
    """Ask for the nearest feasible size: ``relaxed(-3)`` about three fewer, ``relaxed(to(16))`` about sixteen.

    With a wish that differs from the present size, the answer differs from the present size too, and of two sizes that
    are equally near, the one further from the present size in the direction of the wish is taken. A tuple relaxes every
    member (for `delta_nin`, one per input).

    >>> relaxed(2)
    Relaxed(wish=2)
    """
    if isinstance(wish, Relaxed):
        return wish
    if not isinstance(wish, To | tuple):
        _whole(wish, "nas.relaxed takes a change, nas.to(size), or a tuple of these")
    return Relaxed(wish)


@dataclass(frozen=True)
class Target:
    """A request about one axis, in absolute terms.

    Attributes:
      axis: its name.
      present: its size now.
      wish: the size asked for.
      exact: whether nothing else will do.
    """

    axis: str
    present: int
    wish: int
    exact: bool = True

    def __str__(self) -> str:
        return f"{self.axis!r} {'=' if self.exact else 'about'} {self.wish} (now {self.present})"


def target(axis: str, present: int, asked: Any) -> Target:
    """Read one request.

    Raises:
      RequestError: if it is not a request.
    """
    exact = not isinstance(asked, Relaxed)
    value = asked.wish if isinstance(asked, Relaxed) else asked
    if isinstance(value, tuple):
        raise RequestError(f"The request for {axis!r} must be one size, found the tuple {value!r}.")
    wish = value.size if isinstance(value, To) else present + _whole(value, f"The request for {axis!r}")
    return Target(axis, present, wish, exact)


def targets(request: Mapping[str, Any], sizes: Mapping[str, int]) -> tuple[Target, ...]:
    """Read a whole request; ``sizes`` are the present sizes of the axes it names."""
    if not isinstance(request, Mapping):
        raise RequestError(
            "A request is a mapping {name: change | nas.to(size) | nas.relaxed(...)}, found "
            f"{type(request).__name__}."
        )
    return tuple(target(axis, sizes[axis], asked) for axis, asked in request.items())


def _whole(value: Any, what: str) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__") or np.ndim(value):
        raise RequestError(
            f"{what}: a whole number is needed, as a change (-2, 3), nas.to(size) or nas.relaxed(either); found "
            f"{value!r:.80}."
        )
    if abs(int(value)) > _LARGEST:
        raise RequestError(f"{what}: sizes beyond {_LARGEST} are not supported; found {int(value)}.")
    return int(value.__index__())
