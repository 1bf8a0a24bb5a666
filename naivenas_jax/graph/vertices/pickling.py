"""Functions in pickles, by the name under which they can be imported.

Pickle does so by itself for plain functions, but not for those that jax has wrapped, such as ``jax.nn.relu``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class ByName:
    """Where a function is found."""

    module: str
    name: str

    def function(self) -> Callable[..., Any]:
        """The function itself."""
        found: Any = import_module(self.module)
        for part in self.name.split("."):
            found = getattr(found, part)
        return found


def by_name(fn: Callable[..., Any]) -> Any:
    """The name of ``fn``, or ``fn`` itself if importing that name would give something else."""
    place = ByName(str(getattr(fn, "__module__", "")), str(getattr(fn, "__qualname__", "")))
    try:
        return place if place.module in sys.modules and place.function() is fn else fn
    except AttributeError:
        return fn


def function_of(found: Any) -> Callable[..., Any]:
    """The inverse of `by_name`."""
    return found.function() if isinstance(found, ByName) else found
