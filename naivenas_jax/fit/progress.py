"""A bar for what takes a while."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.progress import track

T = TypeVar("T")


def tracked(items: Sequence[T], what: str, shown: bool) -> Iterator[T]:
    """The items, one by one, with a bar if that is wanted."""
    yield from track(items, description=what, transient=True, disable=not shown)
