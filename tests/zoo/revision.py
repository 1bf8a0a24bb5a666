"""Which state of the library a page was measured with."""

from __future__ import annotations

import subprocess
from pathlib import Path

import naivenas_jax


def revision() -> str:
    """The commit; `-dirty` where uncommitted changes lie on top."""
    command = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    return subprocess.run(
        command, cwd=Path(naivenas_jax.__file__).parent, capture_output=True, text=True, check=True
    ).stdout.strip()
