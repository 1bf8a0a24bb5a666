"""What a user asks of sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from naivenas_jax.checks import as_whole
from naivenas_jax.errors import RequestError

_LARGEST = 10**9


@dataclass(frozen=True)
class To:
    """An absolute size. Made by `to`.

    Attributes:
      size: the number of neurons.
    """

    size: int


#: What can be relaxed: a change, an absolute size, or one for each input of a vertex, where None asks nothing.
Wish: TypeAlias = int | To | tuple[int | To | None, ...]


@dataclass(frozen=True)
class Relaxed:
    """A wish and not a demand. Made by `relaxed`.

    Attributes:
      wish: what is asked for.
    """

    wish: Wish


def to(size: int | To) -> To:
    """Ask for an absolute size instead of a change.

    Args:
      size: the number of neurons.

    Returns:
      What stands for the size in a request.

    Raises:
      RequestError: if the size is no whole number.

    >>> to(16)
    To(size=16)
    """
    if isinstance(size, To):
        return size
    return To(_whole(size, "nas.to takes a whole number of neurons"))


def relaxed(wish: Wish | Relaxed) -> Relaxed:
    """Ask for the nearest feasible size: ``relaxed(-3)`` about three fewer, ``relaxed(to(16))`` about sixteen.

    Where the wish differs from the present size, the size that is found differs from it too. Of two sizes that are
    equally near to the wish, the one further from the present size, in the direction of the wish, is taken.

    Args:
      wish: a change, ``to(size)``, or for `delta_nin` a tuple of these, one per input.

    Returns:
      What stands for the wish in a request.

    Raises:
      RequestError: if the wish is none of these.

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


def target(axis: str, present: int, asked: object) -> Target:
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


def targets(request: Mapping[str, object], sizes: Mapping[str, int]) -> tuple[Target, ...]:
    """Read a whole request; ``sizes`` are the present sizes of the axes it names."""
    if not isinstance(request, Mapping):
        raise RequestError(
            "A request is a mapping {name: change | nas.to(size) | nas.relaxed(...)}, found "
            f"{type(request).__name__}."
        )
    return tuple(target(axis, sizes[axis], asked) for axis, asked in request.items())


def _whole(value: object, what: str) -> int:
    """``value`` as an integer, if it can be a size or a change of one."""
    number = as_whole(value)
    if number is None:
        raise RequestError(
            f"{what}: a whole number is needed, as a change (-2, 3), nas.to(size) or nas.relaxed(either); found "
            f"{value!r:.80}."
        )
    if abs(number) > _LARGEST:
        raise RequestError(f"{what}: sizes beyond {_LARGEST} are not supported; found {number}.")
    return number
