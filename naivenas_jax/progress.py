"""What is shown while something takes long: a bar that was asked for, or a line where somebody may be waiting."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock, Timer
from typing import TypeVar

from rich.console import Console
from rich.progress import track

T = TypeVar("T")
#: So many seconds nothing is shown.
_PATIENCE = 1.0


def tracked(items: Sequence[T], what: str, shown: bool) -> Iterator[T]:
    """The items, one by one, with a bar if that is wanted."""
    yield from track(items, description=what, transient=True, disable=not shown)


@contextmanager
def waiting(what: str, console: Console | None = None, patience: float = _PATIENCE) -> Iterator[Callable[[str], None]]:
    """Shows a line once something has taken a second, which vanishes at the end.

    It is shown in terminals, on standard error, and in notebooks; nowhere else is anything written.

    Args:
      what: what is being done.
      console: where to show it.
      patience: after so many seconds.

    Yields:
      A function that takes how far it is, in words.

    >>> with waiting("searching") as tell:
    ...     tell("2 tries")
    """
    console = Console(stderr=True) if console is None else console
    if not (console.is_terminal or console.is_jupyter):
        yield lambda said: None
        return
    status, lock, over = console.status(what), Lock(), False

    def show() -> None:
        with lock:
            if not over:
                status.start()

    timer = Timer(patience, show)
    timer.daemon = True
    timer.start()
    try:
        yield lambda said: status.update(f"{what}: {said}")
    finally:
        timer.cancel()
        with lock:
            over = True
            status.stop()
