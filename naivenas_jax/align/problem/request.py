"""What a user asks of sizes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

from naivenas_jax.checks import as_items, as_whole, shown
from naivenas_jax.errors import RequestError

_LARGEST = 10**9


@dataclass(frozen=True)
class To:
    """An absolute size. Made by `to`.

    Attributes:
      size: the number of neurons.
      keep: the positions of the neurons that stay; None: utility decides.
    """

    size: int
    keep: tuple[int, ...] | None = None

    def __repr__(self) -> str:
        return f"To(size={self.size}{'' if self.keep is None else f', keep={list(self.keep)}'})"


#: What can be relaxed: a change, an absolute size, or one for each input of a vertex, where None asks nothing.
Wish: TypeAlias = int | To | tuple[int | To | None, ...]


@dataclass(frozen=True)
class Relaxed:
    """A wish and not a demand. Made by `relaxed`.

    Attributes:
      wish: what is asked for.
    """

    wish: Wish


def to(size: int | To | None = None, *, keep: Iterable[int] | None = None) -> To:
    """Ask for an absolute size instead of a change, and, if wished, for the neurons that stay.

    Args:
      size: the number of neurons. May be left out where ``keep`` says which stay and none are new.
      keep: the positions of the neurons that stay, whatever their utility, in ascending order, since they stay in it;
        all others go, and new ones come last. Of a head these are the classes that stay: ``to(37, keep=())`` has 37 new
        ones. None: the most useful neurons stay.

    Returns:
      What stands for the size in a request.

    Raises:
      RequestError: if the size is no whole number, or ``keep`` no positions in ascending order, at most as many.

    >>> to(16), to(keep=[0, 3, 4]), to(5, keep=range(2))
    (To(size=16), To(size=3, keep=[0, 3, 4]), To(size=5, keep=[0, 1]))
    """
    if isinstance(size, To) and keep is None:
        return size
    kept = None if keep is None else _positions(keep)
    if size is None and kept is not None:
        return To(len(kept), kept)
    number = _whole(size, "nas.to takes a whole number of neurons")
    if kept is not None and len(kept) > number:
        raise RequestError(f"nas.to({number}, keep=...) cannot keep {len(kept)} neurons. Ask for no less than these.")
    return To(number, kept)


def _positions(keep: object) -> tuple[int, ...]:
    """The positions of neurons that stay.

    Raises:
      RequestError: if they are no whole numbers of 0 or more, one greater than the other.
    """
    items = as_items(keep)
    given = (None,) if items is None else items
    found = tuple(number for one in given if (number := as_whole(one)) is not None and number >= 0)
    if len(found) < len(given):
        raise RequestError(
            f"keep= takes the positions of the neurons that stay, such as [0, 3, 4]; found {shown(keep)}."
        )
    if any(a >= b for a, b in pairwise(found)):
        raise RequestError(
            f"keep= takes positions in ascending order, each once, since neurons stay in their order; found "
            f"{shown(keep)}. Give sorted(set(...)), and mutation.indices(...) has the old position of each."
        )
    return found


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
    parts = wish if isinstance(wish, tuple) else (wish,)
    if any(isinstance(part, To) and part.keep is not None for part in parts):
        raise RequestError(
            f"nas.relaxed takes a size that may be missed, and keep= says what exactly; found {wish!r:.80}."
        )
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
      keep: the positions of the neurons that stay; None: utility decides.
    """

    axis: str
    present: int
    wish: int
    exact: bool = True
    keep: tuple[int, ...] | None = None

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
    keep = value.keep if isinstance(value, To) else None
    if keep and keep[-1] >= present:
        raise RequestError(f"The request for {axis!r} keeps neuron {keep[-1]}; it has neurons 0 to {present - 1}.")
    return Target(axis, present, wish, exact, keep)


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
