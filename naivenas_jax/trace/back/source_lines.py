"""Which line of the user's model fixes a size."""

from __future__ import annotations

import linecache
import re
import sysconfig
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TypeAlias

import flax
import flax.linen as nn
import jax
import numpy as np
from flax import nnx
from jax.extend.core import JaxprEqn

from naivenas_jax.trace.back.numbers.changed_sizes import ChangedSize

#: Where a frame of a traceback is: the file, and the number of the line.
_Location: TypeAlias = tuple[str, int]
_OWN = str(Path(__file__).parents[2])
#: Whoever wrote the model did not write these.
_LIBRARIES = (
    _OWN,
    *(str(Path(module.__file__).parent) for module in (jax, flax, np) if module.__file__),
    sysconfig.get_paths()["stdlib"] + "/",
    "<",
)


@dataclass(frozen=True)
class SourceLine:
    """A line of the user's model.

    Attributes:
      file: the file that it is in.
      number: its number there.
      text: the line itself, without indentation.
      module: the path of the module that was running, or its class; empty if it is not known.
    """

    file: str
    number: int
    text: str
    module: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.number}: {self.text}" + (f"    (in {self.module})" if self.module else "")

    def sizes(self, changes: Iterable[ChangedSize]) -> list[ChangedSize]:
        """The changes of sizes that the line writes out as a number."""
        written = {int(digits) for digits in re.findall(r"(?<![\w.])\d+(?![\w.])", self.text)}
        return [change for change in changes if change.old in written]


def line_of_error(error: BaseException) -> SourceLine | None:
    """The innermost line of the user's model that an exception passed through."""
    frames = list(traceback.walk_tb(error.__traceback__))
    inner = _inside([(frame.f_code.co_filename, number) for frame, number in frames])
    if inner is None:
        return None
    return _line(*inner, _module([frame for frame, _ in frames]))


def line_of_equation(eqn: JaxprEqn) -> SourceLine | None:
    """The line of the user's model that an equation of a jaxpr comes from."""
    trace = eqn.source_info.traceback
    inner = None if trace is None else _inside([(f.file_name, f.line_num) for f in reversed(trace.frames)])
    return None if inner is None else _line(*inner)


def _inside(frames: list[_Location]) -> _Location | None:
    """The innermost frame of the user, among the frames inside our own; frames come outermost first."""
    own = next((i for i, (file, _) in enumerate(frames) if file.startswith(_OWN)), -1)
    users = [frame for frame in frames[own + 1 :] if not frame[0].startswith(_LIBRARIES)]
    return users[-1] if users else None


def _line(file: str, number: int, module: str = "") -> SourceLine:
    return SourceLine(file, number, linecache.getline(file, number).strip(), module)


def _module(frames: list[FrameType]) -> str:
    """The innermost module that was running."""
    for frame in reversed(frames):
        module = frame.f_locals.get("self")
        if isinstance(module, nn.Module) and module.scope is not None:
            return "/".join(module.path) or type(module).__name__
        if isinstance(module, nnx.Module):
            return type(module).__name__
    return ""
