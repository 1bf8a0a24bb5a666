"""Which line of the user's model fixes a size."""

from __future__ import annotations

import linecache
import re
import sysconfig
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax
import flax.linen as nn
import jax
import numpy as np
from flax import nnx

from naivenas_jax.trace.back.size_changes import Change

_OWN = str(Path(__file__).parents[2])
#: Whoever wrote the model did not write these.
_LIBRARIES = (
    _OWN,
    *(str(Path(module.__file__).parent) for module in (jax, flax, np) if module.__file__),
    sysconfig.get_paths()["stdlib"] + "/",
    "<",
)


@dataclass(frozen=True)
class Line:
    """A line of the user's model.

    Attributes:
      file: its file.
      number: its number there.
      text: what is written there.
      module: the module that was running, as far as it is known.
    """

    file: str
    number: int
    text: str
    module: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.number}: {self.text}" + (f"    (in {self.module})" if self.module else "")

    def sizes(self, changes: Iterable[Change]) -> list[Change]:
        """Those that the line writes out as a number."""
        written = {int(digits) for digits in re.findall(r"(?<![\w.])\d+(?![\w.])", self.text)}
        return [change for change in changes if change.old in written]


def line_of_error(error: BaseException) -> Line | None:
    """The innermost line of the user's model that an exception passed through."""
    frames = [(f.f_code.co_filename, number, f) for f, number in traceback.walk_tb(error.__traceback__)]
    inner = _inside([(file, number) for file, number, _ in frames])
    if inner is None:
        return None
    return _line(*inner, _module(frames))


def line_of_equation(eqn: Any) -> Line | None:
    """The line of the user's model that an equation of a jaxpr comes from."""
    trace = eqn.source_info.traceback
    frames = [(f.file_name, f.line_num) for f in reversed(trace.frames)] if trace is not None else []
    inner = _inside(frames)
    return None if inner is None else _line(*inner)


def _inside(frames: list[tuple[str, int]]) -> tuple[str, int] | None:
    """The last frame of the user, among those inside our own; frames come outermost first."""
    own = next((i for i, (file, _) in enumerate(frames) if file.startswith(_OWN)), -1)
    users = [frame for frame in frames[own + 1 :] if not frame[0].startswith(_LIBRARIES)]
    return users[-1] if users else None


def _line(file: str, number: int, module: str = "") -> Line:
    return Line(file, number, linecache.getline(file, number).strip(), module)


def _module(frames: list[tuple[str, int, Any]]) -> str:
    """The innermost module that was running."""
    for _, _, frame in reversed(frames):
        module = frame.f_locals.get("self")
        if isinstance(module, nn.Module) and module.scope is not None:
            return "/".join(module.path) or type(module).__name__
        if isinstance(module, nnx.Module):
            return type(module).__name__
    return ""
