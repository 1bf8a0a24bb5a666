"""A function as a jaxpr, with what each of its arguments and results is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
from jax.extend import core as jex
from jax.interpreters import partial_eval

from naivenas_jax.paths import Path
from naivenas_jax.trace.program.import_errors import tracing
from naivenas_jax.transfer.variables import flat, nested

#: ``fn(variables, inputs, rngs, keywords) -> (outputs, updated variables)``; inputs and keywords are lists of arrays
Traceable = Callable[[Any, Sequence[Any], Mapping[str, Any], Sequence[Any]], tuple[Any, Any]]


class Role(NamedTuple):
    """What an argument or result of the jaxpr is: a variable (by path), or something else by number or name."""

    kind: Literal["variable", "input", "rng", "keyword", "output"]
    which: Any


@dataclass(frozen=True, eq=False)
class Program:
    """A traced function.

    Attributes:
      closed: its jaxpr, without what no result depends on.
      arguments: what each argument is.
      used: whether a result depends on the argument.
      results: what each result is. A variable that is a pytree itself (what a model has sown) has several in a row.
      out_tree: the structure of the outputs.
      updates: the structure of each updated variable.
    """

    closed: jex.ClosedJaxpr
    arguments: tuple[Role, ...]
    used: tuple[bool, ...]
    results: tuple[Role, ...]
    out_tree: Any
    updates: Mapping[Path, Any]

    @property
    def read(self) -> frozenset[Path]:
        """The variables that a result depends on."""
        pairs = zip(self.arguments, self.used, strict=True)
        return frozenset(role.which for role, used in pairs if used and role.kind == "variable")

    def outputs(self, results: Sequence[Any]) -> tuple[tuple[Any, ...], dict[Path, Any]]:
        """The leaves of the outputs, and the updated variables."""
        outputs = tuple(v for role, v in zip(self.results, results, strict=True) if role.kind == "output")
        rest = iter(results[len(outputs) :])
        updates = {
            path: jax.tree.unflatten(tree, [next(rest) for _ in range(tree.num_leaves)])
            for path, tree in self.updates.items()
        }
        return outputs, updates


def capture(
    fn: Traceable,
    variables: Mapping[Path, Any],
    inputs: Sequence[Any],
    rngs: Mapping[str, Any],
    keywords: Sequence[Any],
) -> Program:
    """Trace ``fn`` at these shapes; arrays or ``jax.ShapeDtypeStruct`` will do."""
    names = sorted(rngs)

    paths: list[Path] = []  # of updates; kept here, since they are no arrays and cannot leave the trace as results

    def traced(values: list[Any], data: list[Any], keys: list[Any], named: list[Any]) -> tuple[Any, list[Any]]:
        given = nested(dict(zip(variables, values, strict=True)))
        outputs, updates = fn(given, data, dict(zip(names, keys, strict=True)), named)
        paths[:] = flat(updates)
        return outputs, list(flat(updates).values())

    arguments = [list(variables.values()), list(inputs), [rngs[name] for name in names], list(keywords)]
    with tracing():
        closed, (outputs, updates) = jax.make_jaxpr(traced, return_shape=True)(*arguments)
    out_leaves, out_tree = jax.tree.flatten(outputs)
    trees: dict[Path, Any] = {path: jax.tree.structure(value) for path, value in zip(paths, updates, strict=True)}
    every = [True] * len(closed.jaxpr.outvars)
    live, _ = partial_eval.dce_jaxpr(closed.jaxpr, every, instantiate=True)
    _, used = partial_eval.dce_jaxpr(live, every)
    return Program(
        jex.ClosedJaxpr(live, closed.consts),
        (
            *(Role("variable", path) for path in variables),
            *(Role("input", i) for i in range(len(inputs))),
            *(Role("rng", name) for name in names),
            *(Role("keyword", i) for i in range(len(keywords))),
        ),
        tuple(used),
        (
            *(Role("output", i) for i in range(len(out_leaves))),
            *(Role("variable", path) for path, tree in trees.items() for _ in range(tree.num_leaves)),
        ),
        out_tree,
        trees,
    )
