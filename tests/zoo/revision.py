"""Which state of the library a page was measured with."""

from __future__ import annotations

import subprocess
from pathlib import Path

import naivenas_jax


def revision() -> str:
    """The last commit that changed the library; `-dirty` where uncommitted changes lie on top."""
    return _git("log", "-1", "--format=%h", "--", ".") + ("-dirty" if _git("status", "--porcelain", "--", ".") else "")


def _git(*arguments: str) -> str:
    where = Path(naivenas_jax.__file__).parent
    return subprocess.run(["git", *arguments], cwd=where, capture_output=True, text=True, check=True).stdout.strip()
