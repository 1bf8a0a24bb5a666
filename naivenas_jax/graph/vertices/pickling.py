"""Functions in pickles, by the name under which they can be imported.

Pickle does so by itself for plain functions, but not for functions that jax has wrapped, such as ``jax.nn.relu``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from naivenas_jax.typing import PyTree


@dataclass(frozen=True)
class ImportPath:
    """Where a function can be imported from.

    Attributes:
      module: the name of the module.
      name: the qualified name of the function in it.
    """

    module: str
    name: str

    def resolve(self) -> object:
        """What is found there."""
        found: object = import_module(self.module)
        for part in self.name.split("."):
            found = getattr(found, part)
        return found


def import_path(fn: Callable[..., PyTree]) -> Callable[..., PyTree] | ImportPath:
    """Where ``fn`` can be imported from, or ``fn`` itself if something else is found there."""
    path = ImportPath(str(getattr(fn, "__module__", "")), str(getattr(fn, "__qualname__", "")))
    try:
        return path if path.module in sys.modules and path.resolve() is fn else fn
    except AttributeError:
        return fn


def function_at(found: Callable[..., PyTree] | ImportPath) -> Callable[..., PyTree]:
    """The inverse of `import_path`."""
    function = found.resolve() if isinstance(found, ImportPath) else found
    if not callable(function):
        raise TypeError(f"{found} is no function any more; found {function!r:.80}.")
    imported: Callable[..., PyTree] = function
    return imported
