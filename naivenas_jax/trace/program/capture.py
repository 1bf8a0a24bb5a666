"""Trace a function, and keep what each argument and result of its jaxpr stands for.

The values inside have the names of the user's modules. To name them, something is put between the modules, and what
that does to a model is not taken on trust: the function is traced without names as well, and is the same computation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeAlias

import jax
from jax.extend import core as jex
from jax.interpreters import partial_eval

from naivenas_jax.graph.evaluation.evaluate import DOES_NOT_FIT
from naivenas_jax.graph.structure import Structure
from naivenas_jax.jaxpr.value_numbering import same_computation
from naivenas_jax.paths import Path
from naivenas_jax.trace.program.import_errors import NEEDS_A_VALUE, does_not_fit, needs_a_value, traces_differ
from naivenas_jax.trace.program.module_names import naming
from naivenas_jax.transfer.variables import flat_mappings, nested
from naivenas_jax.typing import Array, PyTree, Shape, Variables

#: ``fn(variables, inputs, rngs, keywords) -> (outputs, updated variables)``; inputs and keywords are lists of arrays
Traceable: TypeAlias = Callable[
    [Variables, Sequence[Array], Mapping[str, jax.Array], Sequence[Array]], tuple[PyTree, Variables]
]


class Role(NamedTuple):
    """What an argument or result of the jaxpr stands for.

    Attributes:
      kind: variable, input, stream of random numbers, keyword argument or output.
      which: the path of a variable (a tuple), the name of a stream, the number of anything else.
    """

    kind: Literal["variable", "input", "rng", "keyword", "output"]
    which: Path | str | int


@dataclass(frozen=True, eq=False)
class TracedProgram:
    """A traced function.

    Attributes:
      closed: its jaxpr, without equations that no result depends on.
      arguments: what each argument stands for.
      used: for each argument, whether a result depends on it.
      results: what each result stands for. A variable that is a pytree itself (what a model has sown) has several
        results in a row.
      outputs: the structure of the outputs; what is no array among them is the same in every call.
      updates: the structure of each updated variable.
    """

    closed: jex.ClosedJaxpr
    arguments: tuple[Role, ...]
    used: tuple[bool, ...]
    results: tuple[Role, ...]
    outputs: Structure
    updates: Mapping[Path, jax.tree_util.PyTreeDef]

    @property
    def read(self) -> frozenset[Path]:
        """The variables that a result depends on."""
        pairs = zip(self.arguments, self.used, strict=True)
        return frozenset(role.which for role, used in pairs if used and isinstance(role.which, tuple))

    def returned(self, results: Sequence[Array]) -> tuple[PyTree, dict[Path, PyTree]]:
        """The outputs and the updated variables, made of the results of the jaxpr."""
        outputs = [v for role, v in zip(self.results, results, strict=True) if role.kind == "output"]
        rest = iter(results[len(outputs) :])
        updates = {
            path: jax.tree.unflatten(tree, [next(rest) for _ in range(tree.num_leaves)])
            for path, tree in self.updates.items()
        }
        return self.outputs.join(outputs), updates


def capture(
    fn: Traceable,
    variables: Mapping[Path, PyTree],
    inputs: Sequence[Array | Shape],
    rngs: Mapping[str, Array | Shape],
    keywords: Sequence[Array | Shape],
    *,
    once: bool = False,
) -> TracedProgram:
    """Trace ``fn`` at the shapes of these arguments; values have names, if the function allows it without noticing.

    Args:
      fn: the function.
      variables: arrays or shapes by path; those that a model has sown are pytrees of them.
      inputs: arrays or shapes.
      rngs: keys, or their shapes, by the name of the stream.
      keywords: arrays or shapes.
      once: trace it once, without names and without a proof that it is the same computation each time.

    Raises:
      GraphError: if the shapes or the Python code of the function depend on values (names the line), or if it computes
        something else each time that it is traced.
      VariablesError: if the variables do not fit a linen module.
    """

    def trace() -> TracedProgram:
        return _traced(fn, variables, inputs, rngs, keywords)

    if once:
        return _live(trace())
    try:
        with naming():  # first, since calls that are compiled are traced once: they keep the names that they get now
            named = trace()
    except Exception:  # raised by the model as it is, too, or by names: then the model is traced without
        named = None
    plain = trace()
    if named is not None and _same(named, plain):
        return _live(named)
    if not _same(plain, trace()):
        raise traces_differ()
    return _live(plain)


def _same(one: TracedProgram, other: TracedProgram) -> bool:
    """Whether two traced functions of the same arguments are the same computation."""
    results = one.results == other.results and one.outputs == other.outputs and one.updates == other.updates
    return results and same_computation(one.closed, other.closed, addresses=False)


def _traced(
    fn: Traceable,
    variables: Mapping[Path, PyTree],
    inputs: Sequence[Array | Shape],
    rngs: Mapping[str, Array | Shape],
    keywords: Sequence[Array | Shape],
) -> TracedProgram:
    """Trace a function once, with all its equations; see `capture`."""
    names = sorted(rngs)
    paths: list[Path] = []  # of updated variables; they are no arrays, so the traced function cannot return them
    structures: list[Structure] = []  # of the outputs; nor is this

    def traced(
        values: list[PyTree], data: list[Array], keys: list[jax.Array], named: list[Array]
    ) -> tuple[list[Array | Shape], list[PyTree]]:
        given = nested(dict(zip(variables, values, strict=True)))
        outputs, updates = fn(given, data, dict(zip(names, keys, strict=True)), named)
        paths[:] = flat_mappings(updates)
        structure, arrays = Structure.split(outputs)
        structures[:] = [structure]
        return arrays, list(flat_mappings(updates).values())

    arguments = [list(variables.values()), list(inputs), [rngs[name] for name in names], list(keywords)]
    try:
        closed, (outputs, updates) = jax.make_jaxpr(traced, return_shape=True)(*arguments)
    except NEEDS_A_VALUE as error:
        raise needs_a_value(error) from error
    except DOES_NOT_FIT as error:
        raise does_not_fit(error, inputs) from error
    trees = {path: jax.tree.structure(value) for path, value in zip(paths, updates, strict=True)}
    return TracedProgram(
        closed,
        (
            *(Role("variable", path) for path in variables),
            *(Role("input", i) for i in range(len(inputs))),
            *(Role("rng", name) for name in names),
            *(Role("keyword", i) for i in range(len(keywords))),
        ),
        (True,) * len(closed.in_avals),
        (
            *(Role("output", i) for i in range(len(outputs))),
            *(Role("variable", path) for path, tree in zip(paths, updates, strict=True) for _ in jax.tree.leaves(tree)),
        ),
        structures[0],
        trees,
    )


def _live(program: TracedProgram) -> TracedProgram:
    """A program without the equations that no result depends on."""
    jaxpr = program.closed.jaxpr
    live, used = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    whole = live.replace(invars=jaxpr.invars, debug_info=jaxpr.debug_info)  # unused arguments stay arguments
    return replace(program, closed=jex.ClosedJaxpr(whole, program.closed.consts), used=tuple(used))
