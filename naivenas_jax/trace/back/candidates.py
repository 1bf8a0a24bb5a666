"""One try at a model with the new sizes, and in which order they are made.

Each module whose numbers can be chosen in several ways is a decision. What a try gets wrong is blamed on a module, and
its decision is the first to be taken in another way, then those of the modules around it, then all others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeAlias, TypeVar

#: A linen module or an nnx model.
ModuleT = TypeVar("ModuleT")
#: The number of the way to take, by class of module or by ``/`` and the path of one module; 0 where it is left out.
Picked: TypeAlias = Mapping[str, int]


class Decision(NamedTuple):
    """A module whose numbers can be chosen in several ways.

    Attributes:
      place: the path of the module; empty: the model itself.
      kind: its class.
      ways: how many ways there are, the likeliest first.
    """

    place: str
    kind: str
    ways: int

    def way(self, picked: Picked) -> int:
        """The number of the way to take. What is picked for one module goes before what is picked for its class."""
        return min(picked.get(f"/{self.place}", picked.get(self.kind, 0)), self.ways - 1)


@dataclass(frozen=True)
class RebuildAttempt(Generic[ModuleT]):
    """Models that one set of decisions led to, or why there are none.

    Attributes:
      models: models with the new sizes, the likeliest first.
      error: what the user's model raised instead.
      decisions: those that can be taken in another way.
      said: what was changed, in words.
    """

    models: tuple[ModuleT, ...]
    error: Exception | None = None
    decisions: Sequence[Decision] = ()
    said: str = ""


#: Makes the attempt with the decisions that it is given.
MakeAttempt: TypeAlias = Callable[[Picked], RebuildAttempt[ModuleT]]


class OutOfTimeError(Exception):
    """The time limit of a search is over."""


#: So many combinations of decisions are tried.
MOST_ATTEMPTS = 48


@dataclass
class Attempts:
    """The decisions to try, one set after the other: first those that follow from the best try so far."""

    _waiting: list[tuple[tuple[float, ...], dict[str, int]]] = field(default_factory=lambda: [((), {})])
    _seen: set[frozenset[tuple[str, int]]] = field(default_factory=lambda: {frozenset()})
    made: int = 0

    def __iter__(self) -> Iterator[Picked]:
        while self._waiting and self.made < MOST_ATTEMPTS:
            self.made += 1
            self._waiting.sort(key=lambda pair: pair[0])  # keeps the order among equals
            yield self._waiting.pop(0)[1]

    def failed(self, picked: Picked, decisions: Sequence[Decision], blamed: str | None, wrong: float) -> None:
        """Go on from a set of decisions that led to no right model: take one of them in the next way.

        A decision is taken alike in all modules of a class, and then in one module by itself.

        Args:
          picked: the decisions.
          decisions: the modules that could have been given other numbers.
          blamed: the path of the module where something first went wrong, if it is known.
          wrong: how much went wrong.
        """
        for decision in sorted(decisions, key=lambda each: -len(each.place)):
            way = decision.way(picked) + 1
            far = blamed is None or not _around(decision.place, blamed)
            for own, name in enumerate((decision.kind, f"/{decision.place}")):
                following = {**picked, name: way}
                key = frozenset(following.items())
                if way < decision.ways and key not in self._seen:
                    self._seen.add(key)
                    self._waiting.append(((wrong, far, own), following))


def _around(place: str, blamed: str) -> bool:
    """Whether a module is another one, or lies around it."""
    return place in ("", blamed) or blamed.startswith(place + "/")
