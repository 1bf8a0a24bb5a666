"""What is shown while something takes long: a line where somebody may be waiting, and lines of text in a log.

Work says what it does, and how far it is. In a terminal and in a notebook that is one line, which appears after a
second and goes away at the end. Elsewhere nothing is written unless it was asked for: by ``progress=True``, as lines
on standard error, or by whoever lets the logger "naivenas_jax" log at level ``INFO``. Work inside of other work shares
its line.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from importlib import import_module
from threading import Lock, Timer
from typing import TypeAlias, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

T = TypeVar("T")
#: Takes how far work is, in words.
Tell: TypeAlias = Callable[[str], None]
#: So many seconds nothing is shown.
_PATIENCE = 1.0
#: After so many seconds it can be told how long the rest takes.
_TELLING = 5.0
#: Lines of text are so many seconds apart, and changes of an output of a notebook.
_APART, _REFRESHED = 10.0, 0.2

_logger = logging.getLogger("naivenas_jax")


class _Line:
    """One line about some work, and about the work inside of it.

    Attributes:
      show: writes the line.
    """

    def __init__(self, show: Tell):
        self.show = show
        self._said: list[str] = []

    @contextmanager
    def part(self, what: str) -> Iterator[Tell]:
        """Work on the line, inside of what is on it; yields a function that takes how far it is."""
        depth = len(self._said)

        def say(words: str) -> None:
            self._said[depth:] = [words]
            self.show(", ".join(self._said))

        say(what)
        try:
            yield lambda said: say(f"{what}: {said}")
        finally:
            del self._said[depth:]
            if self._said:
                self.show(", ".join(self._said))


#: The line of the work that is being done, if that has one; None: nothing is shown of it.
_LINE: ContextVar[_Line | None] = ContextVar("line")


@contextmanager
def waiting(
    what: str, console: Console | None = None, patience: float = _PATIENCE, progress: bool | None = None
) -> Iterator[Tell]:
    """Shows what is done once it has taken a second.

    Args:
      what: what is being done.
      console: where to show it; None: standard error.
      patience: after so many seconds.
      progress: None: in terminals and notebooks, and in a log that wants it. True: elsewhere, too, as lines of text.
        False: nowhere.

    Yields:
      A function that takes how far it is, in words.

    >>> with waiting("searching") as tell:
    ...     tell("2 tries")
    """
    try:
        line: _Line | None = _LINE.get()
    except LookupError:
        shown = _shown(what, console, patience, progress)
    else:  # inside of other work
        shown = nullcontext(line if progress is not False else None)
    with shown as line:
        token = _LINE.set(line)
        try:
            if line is None:
                yield lambda said: None
            else:
                with line.part(what) as tell:
                    yield tell
        finally:
            _LINE.reset(token)


@contextmanager
def tracked(
    items: Iterable[T], what: str, progress: bool | None = None, costs: Sequence[float] | None = None
) -> Iterator[Iterable[T]]:
    """The items, of which it is shown how many have been begun, and how long the rest may take; see `waiting`.

    Args:
      items: the items.
      what: what is being done.
      progress: as for `waiting`.
      costs: what each item costs, in any unit; None: all the same.

    >>> with tracked([1, 2], "adding") as items:
    ...     sum(items)
    3
    """
    with waiting(what, progress=progress) as tell:

        def each() -> Iterator[T]:
            number = len(items) if isinstance(items, Sized) else None
            of, start = "" if number is None else f" of {number}", time.monotonic()
            price = None if number is None else [1.0] * number if costs is None else list(costs)
            whole, done = sum(price or ()), 0.0
            for i, item in enumerate(items):
                tell(f"{i + 1}{of}{_left(time.monotonic() - start, done, whole)}")
                yield item
                done += price[i] if price is not None else 0.0

        yield each()


def _left(elapsed: float, done: float, whole: float) -> str:
    """How long the rest of some work may take, in words; nothing where that cannot be told yet.

    Args:
      elapsed: the seconds that it has taken so far.
      done: what is done of it.
      whole: all of it, in the same unit.
    """
    if elapsed < _TELLING or done <= 0:
        return ""
    seconds = elapsed * (whole - done) / done
    return f", about {seconds:.0f} s left" if seconds < 100 else f", about {seconds / 60:.0f} min left"


def _shown(
    what: str, console: Console | None, patience: float, progress: bool | None
) -> AbstractContextManager[_Line | None]:
    """The line on which work is shown that is inside of no other."""
    if progress is False:
        return nullcontext()
    console = Console(stderr=True) if console is None else console
    if console.is_jupyter:
        return _in_notebook(patience)
    if console.is_terminal:
        return _live(console, patience)
    if progress:
        return _written(what, lambda text: console.print(text, highlight=False, soft_wrap=True), patience)
    if _logger.isEnabledFor(logging.INFO):
        return _written(what, lambda text: _logger.info("%s", text), patience)
    return nullcontext()


@contextmanager
def _live(console: Console, patience: float) -> Iterator[_Line]:
    """A line that changes, with a bar that moves and the time that it has taken."""
    columns = TextColumn("{task.description}", markup=False), BarColumn(bar_width=10), TimeElapsedColumn()
    bar, lock, over = Progress(*columns, console=console, transient=True), Lock(), False
    task = bar.add_task("", total=None)

    def show() -> None:
        with lock:
            if not over:
                bar.start()

    timer = Timer(patience, show)
    timer.daemon = True
    timer.start()
    try:
        yield _Line(lambda text: bar.update(task, description=text))
    finally:
        timer.cancel()
        with lock:
            over = True
            bar.stop()


@contextmanager
def _in_notebook(patience: float) -> Iterator[_Line]:
    """An output of the cell that changes, and is empty in the end."""
    display = import_module("IPython.display").display  # there in notebooks, and nothing else needs it
    start, last, handle = time.monotonic(), float("-inf"), None

    def show(text: str) -> None:
        nonlocal last, handle
        now = time.monotonic()
        if now - start < patience or now - last < _REFRESHED:
            return
        last, data = now, {"text/plain": f"{text} ({now - start:.0f} s)"}
        if handle is None:
            handle = display(data, raw=True, display_id=True)
        else:
            handle.update(data, raw=True)

    try:
        yield _Line(show)
    finally:
        if handle is not None:
            handle.update({"text/plain": ""}, raw=True)


@contextmanager
def _written(what: str, write: Tell, patience: float) -> Iterator[_Line]:
    """Lines of text, not too many; the last one says how long it took."""
    start, last = time.monotonic(), float("-inf")

    def show(text: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - start >= patience and now - last >= min(_APART, 10 * patience):
            last = now
            write(f"{text} ({now - start:.0f} s)")

    yield _Line(show)
    if last > float("-inf"):
        write(f"{what}: done in {time.monotonic() - start:.0f} s")
