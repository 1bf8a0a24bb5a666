"""Which names of the library a piece of inline code has, and what part of the reference each leads to.

`nas.resize`, `mutation.check(x)`, `Plan.from_json`, `utility=nas.magnitude(graph, variables)`. Needs no Sphinx, so that
a test can ask as well.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from collections.abc import Iterator
from typing import NamedTuple

import naivenas_jax as nas

OBJECTS = {  # what a page calls an object of a class
    "graph": "Graph",
    "mutation": "Mutation",
    "plan": "Plan",
    "population": "Population",
    "history": "History",
    "saved": "Saved",
}
#: Public names that code in a page also has as something else: arguments, methods, operations.
WORDS = {"apply", "concat", "costs", "fallback", "ladder", "layer", "refine", "size", "to"}
DOTTED = re.compile(r"(?<![\w.'\"/-])[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*(?![\w/-]|=(?!=)|\.\w)")


class Link(NamedTuple):
    """A name in a piece of code: where it stands, and the full name of its entry in the reference."""

    start: int
    end: int
    target: str


def links(code: str) -> Iterator[Link]:
    """The names of the library in a piece of code."""
    for found in DOTTED.finditer(code):
        first, *rest = found[0].split(".")
        if first == "nas" and rest:
            path = rest
        elif first in OBJECTS and rest:
            path = [OBJECTS[first], *rest]
        elif first in nas.__all__ and (rest or first not in WORDS) and code[: found.start()] == "":
            path = [first, *rest]
        else:
            continue
        if target := entry(path):
            yield Link(*found.span(), target)


def unknown(code: str) -> list[str]:
    """Names in a piece of code that begin with ``nas.`` and do not exist."""
    names = [found[0] for found in DOTTED.finditer(code) if found[0].startswith("nas.")]
    return [name for name in names if not entry(name.split(".")[1:])]


def entry(path: list[str]) -> str | None:
    """The full name of the entry that says most of a name; None if there is no such name.

    Args:
      path: what stands behind ``nas.``, part by part.
    """
    first, *rest = path
    if first not in nas.__all__ or first == "__version__":
        return f"naivenas_jax.{first}" if hasattr(nas, first) else None
    value = getattr(nas, first)
    if inspect.ismodule(value):
        return f"{value.__name__}.{rest[0]}" if rest and rest[0] in value.__all__ else None if rest else value.__name__
    if not rest:
        return f"naivenas_jax.{first}"
    if not inspect.isclass(value) or not has(value, rest[0]):
        return None
    if len(rest) > 1 and rest[0] in OBJECTS:  # mutation.graph.as_module
        return entry([OBJECTS[rest[0]], *rest[1:]])
    return f"naivenas_jax.{first}.{rest[0]}"


def has(owner: type, name: str) -> bool:
    """Whether objects of a class have a method or an attribute."""
    fields = {each.name for each in dataclasses.fields(owner)} if dataclasses.is_dataclass(owner) else set()
    return hasattr(owner, name) or name in fields or name in typing.get_type_hints(owner)
