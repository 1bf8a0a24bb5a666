"""A function as a jaxpr, with what each of its arguments and results is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
from jax.extend import core as jex

from naivenas_jax.transfer.variables import flat, nested

Path = tuple[str, ...]
#: ``fn(variables, inputs, rngs) -> (outputs, updated variables)``
Traceable = Callable[[Any, tuple[Any, ...], Mapping[str, Any]], tuple[Any, Any]]


class Role(NamedTuple):
    """What an argument or result of the jaxpr is: a variable (by path), an input or output (by number), or a key."""

    kind: Literal["variable", "input", "rng", "output"]
    which: Any


@dataclass(frozen=True, eq=False)
class Program:
    """A traced function.

    Attributes:
      closed: its jaxpr.
      arguments: what each argument is.
      results: what each result is.
      out_tree: the structure of the outputs, updates of variables left out.
    """

    closed: jex.ClosedJaxpr
    arguments: tuple[Role, ...]
    results: tuple[Role, ...]
    out_tree: Any


def capture(fn: Traceable, variables: Mapping[str, Any], inputs: tuple[Any, ...], rngs: Mapping[str, Any]) -> Program:
    """Trace ``fn`` at these shapes; arrays or ``jax.ShapeDtypeStruct`` will do."""
    arrays = flat(variables)
    leaves, in_tree = jax.tree.flatten(inputs)
    names = sorted(rngs)

    def traced(values: list[Any], data: list[Any], keys: list[Any]) -> tuple[Any, dict[Path, Any]]:
        outputs, updates = fn(
            nested(dict(zip(arrays, values, strict=True))),
            jax.tree.unflatten(in_tree, data),
            dict(zip(names, keys, strict=True)),
        )
        return outputs, flat(updates)

    arguments = [list(arrays.values()), leaves, [rngs[name] for name in names]]
    closed, (outputs, updates) = jax.make_jaxpr(traced, return_shape=True)(*arguments)
    out_leaves, out_tree = jax.tree.flatten(outputs)
    updated = jax.tree_util.tree_flatten_with_path(updates)[0]
    return Program(
        closed,
        (
            *(Role("variable", path) for path in arrays),
            *(Role("input", i) for i in range(len(leaves))),
            *(Role("rng", name) for name in names),
        ),
        (
            *(Role("output", i) for i in range(len(out_leaves))),
            *(Role("variable", keys[0].key) for keys, _ in updated),
        ),
        out_tree,
    )
