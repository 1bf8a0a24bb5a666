"""One try at a model with the new sizes, and in which order they are made."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

#: For what could have been decided otherwise (by name), the number of the decision, if not 0.
Picked = Mapping[str, int]


@dataclass(frozen=True)
class Attempt:
    """A model, or why there is none.

    Attributes:
      models: with the new sizes, the best first.
      error: what the user's model raised instead.
      open: how many ways there were to decide, by name.
      said: what was changed, in words.
    """

    models: tuple[Any, ...]
    error: Exception | None = None
    open: Mapping[str, int] = field(default_factory=dict)
    said: str = ""


#: So many combinations of decisions are tried.
MOST = 24


def attempts(make: Callable[[Picked], Attempt]) -> Iterator[Attempt]:
    """First with every decision as it is most likely, then with one of them otherwise, then two, and so on."""
    queue: deque[dict[str, int]] = deque([{}])
    seen: set[tuple[tuple[str, int], ...]] = {()}
    for _ in range(MOST):
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
