"""Something that takes long is shown to whoever waits for it, and to nobody else."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from naivenas_jax.progress import waiting


@pytest.mark.parametrize(("terminal", "seconds", "shown"), [(True, 0.3, True), (True, 0, False), (False, 0.3, False)])
def test_a_line_is_shown_in_a_terminal_after_a_while(terminal, seconds, shown):
    file = io.StringIO()
    with waiting("searching", Console(file=file, force_terminal=terminal), patience=0.1) as tell:
        tell("3 tries")
        time.sleep(seconds)
    assert ("searching: 3 tries" in file.getvalue()) == shown
    if not terminal:
        assert not file.getvalue()


def test_it_ends_with_an_error():
    console = Console(file=io.StringIO(), force_terminal=True)

    def fails():
        with waiting("searching", console, patience=0):
            time.sleep(0.1)
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fails()
    with waiting("again", console, patience=0):  # no other line is on
        time.sleep(0.1)
