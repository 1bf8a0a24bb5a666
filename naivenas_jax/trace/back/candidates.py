"""One try at a model with the new sizes, and in which order they are made."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeAlias, TypeVar

#: A linen module or an nnx model.
ModuleT = TypeVar("ModuleT")
#: For decisions that have several ways, by name, the number of the way to take; 0 where it is left out.
Picked: TypeAlias = Mapping[str, int]


@dataclass(frozen=True)
class RebuildAttempt(Generic[ModuleT]):
    """Models that one set of decisions led to, or why there are none.

    Attributes:
      models: models with the new sizes, the likeliest first.
      error: what the user's model raised instead.
      open: the number of ways of each decision, by name.
      said: what was changed, in words.
    """

    models: tuple[ModuleT, ...]
    error: Exception | None = None
    open: Mapping[str, int] = field(default_factory=dict)
    said: str = ""


#: So many combinations of decisions are tried.
_MOST_ATTEMPTS = 24


def rebuild_attempts(make: Callable[[Picked], RebuildAttempt[ModuleT]]) -> Iterator[RebuildAttempt[ModuleT]]:
    """Attempts in order: with the likeliest way of every decision, then with another way of one, of two, and so on.

    Args:
      make: makes the attempt with the decisions that it is given.
    """
    queue: deque[dict[str, int]] = deque([{}])
    seen: set[tuple[tuple[str, int], ...]] = {()}
    for _ in range(_MOST_ATTEMPTS):
        if not queue:
            return
        picked = queue.popleft()
        attempt = make(picked)
        yield attempt
        for name, count in attempt.open.items():
            following = {**picked, name: picked.get(name, 0) + 1}
            key = tuple(sorted(following.items()))
            if following[name] < count and key not in seen:
                seen.add(key)
                queue.append(following)
