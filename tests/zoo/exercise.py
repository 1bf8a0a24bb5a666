"""What every model of the zoo has to go through."""

from __future__ import annotations

import time
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from models import ZOO, Loaded

import naivenas_jax as nas
from naivenas_jax.jaxpr.primitive_tables import FROZEN
from naivenas_jax.trace.program.analysis import TIES
from naivenas_jax.transfer.variables import flat, nested

SHRINKS, GROWTHS = 6, 3


@dataclass
class Row:
    """What came out for one model.

    Attributes:
      kind: how it was imported: linen, nnx or function.
      handles: how many it has.
      tried: how many handles without a neuron in common were changed.
      share: of its parameters, those on an axis that can change.
      froze: what fixed the others.
      seconds: CPU time of the import.
      exact: whether the graph computes what the model does.
      shrinks: how many were made and evaluated.
      growths: likewise.
      gradients: how many of the changed models were differentiated, the first shrink and a growth.
      compared: how many of both the oracle compared with the original.
      own: how many shrinks were also compared with the user's own model, zero in the weights that read what went.
      felt: how many of the compared shrinks changed the outputs at all.
      why: why the others could not be compared, and how often.
      problems: what went wrong.
    """

    name: str
    kind: str = ""
    handles: int = 0
    tried: int = 0
    share: float = 0.0
    froze: str = ""
    seconds: float = 0.0
    exact: bool = False
    shrinks: int = 0
    growths: int = 0
    gradients: int = 0
    compared: int = 0
    own: int = 0
    felt: int = 0
    why: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


def exercise(name: str, shrinks: int = SHRINKS, growths: int = GROWTHS) -> Row:
    """Import one model of the zoo, shrink and grow it at random, and compare."""
    try:
        loaded = ZOO[name]()
    except Exception as error:  # the table is to show what happened
        return Row(name, problems=[short("the model itself", error)])
    return exercise_loaded(name, loaded, shrinks, growths)


def exercise_loaded(name: str, loaded: Loaded, shrinks: int, growths: int) -> Row:
    """The same for a model that is there already."""
    row = Row(name, loaded.kind)
    with loaded.context(), jax.default_matmul_precision("highest"):
        try:
            start = time.process_time()
            graph, variables = loaded.bring()
            row.seconds = time.process_time() - start
            _describe(row, graph, variables)
            _guard(row, loaded, variables)
            _mutate(row, loaded, graph, variables, shrinks, growths)
        except Exception as error:
            row.problems.append(short("import", error))
    return row


def _describe(row: Row, graph: Any, variables: Any) -> None:
    """Handles, the share of parameters that a handle touches, and what fixed the rest."""
    ties, free, total, reasons = graph.ties, 0, 0, Counter[str]()
    fixed = {axis: all(r in ties.fixed for r in ties.plain(runs)) for axis, runs in ties.axes.items()}
    for path, array in flat(variables["params"]).items():
        total += array.size
        axes = [axis for axis in ties.leaves[("params", *path)].axes if axis is not None]
        if any(not fixed[axis] for axis in axes):
            free += array.size
        else:
            found = [ties.fixed[r] for axis in axes for r in ties.plain(ties.axes[axis]) if r in ties.fixed]
            reasons[(found or ["it lies on no axis"])[0]] += array.size
    row.handles, row.share = len(graph.handles()), free / max(total, 1)
    row.froze = "; ".join(reason for reason, _ in reasons.most_common(2))


def _guard(row: Row, loaded: Loaded, variables: Any) -> None:
    """Every primitive is in the table of rules, or is left fixed for a reason that is written down."""
    used = set(primitives(jax.make_jaxpr(loaded.function)(variables, *loaded.inputs).jaxpr))
    if unknown := used - set(TIES) - set(FROZEN):
        row.problems.append(f"the table of primitives does not know {', '.join(sorted(unknown))}")


def primitives(jaxpr: Any) -> Iterator[str]:
    """The names of all primitives in a jaxpr and those inside it."""
    for eqn in jaxpr.eqns:
        yield eqn.primitive.name
        for value in eqn.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                    yield from primitives(getattr(inner, "jaxpr", inner))


def _mutate(row: Row, loaded: Loaded, graph: Any, variables: Any, shrinks: int, growths: int) -> None:
    own, arrays = loaded.function, jax.tree.leaves(loaded.inputs)
    before = jax.tree.leaves(own(variables, *loaded.inputs))
    row.exact = _far(before, jax.tree.leaves(jax.jit(graph.apply)(variables, *arrays))) <= 1e-5
    if not row.exact:
        row.problems.append("the graph differs from the model")
    rng = np.random.default_rng(zlib.crc32(row.name.encode()))
    handles = inner(graph)
    chosen = [handles[i] for i in rng.permutation(len(handles))]
    row.tried = min(len(chosen), shrinks + growths)
    for number in range(shrinks + growths if chosen else 0):
        handle = chosen[number % len(chosen)]
        change = int(rng.integers(1, max(2, handle.size // 3))) * (-1 if number < shrinks else 1)
        try:
            mutation = nas.delta_nout(graph, variables, {handle.name: nas.relaxed(change)})
            row.shrinks, row.growths = row.shrinks + (change < 0), row.growths + (change > 0)
            _one(row, own, mutation, variables, loaded.inputs, before)
        except Exception as error:
            row.problems.append(short(f"{handle.name} {change:+d}", error))
    if chosen and row.gradients < 2:
        row.problems.append("not differentiated")


def inner(graph: Any) -> list[Any]:
    """One handle of those that are tied altogether, apart from inputs and outputs, which keep their sizes here."""
    ties, ends = graph.ties, (*graph.inputs, *graph.outputs)
    outer = {run for vertex in ends for run in ties.plain(ties.axes.get(vertex.name, ()))}
    distinct = {frozenset(ties.plain(ties.axes[h.name])): h for h in graph.handles().values() if h.size > 1}
    return [handle for runs, handle in distinct.items() if not runs & outer]


def _one(row: Row, own: Any, mutation: Any, variables: Any, inputs: Any, before: list[Any]) -> None:
    """Evaluate what came out, and compare it with the original where that is defined."""
    arrays = jax.tree.leaves(inputs)

    # Not under jit: nine programs would be compiled from scratch, where most single operations are compiled already.
    after = jax.tree.leaves(mutation.graph.apply(mutation.variables, *arrays))
    assert all(np.isfinite(x).all() for x in after), "outputs are not finite"
    assert [x.shape for x in after] == [x.shape for x in before], "outputs have another shape"
    if row.gradients < 2 and (row.growths or not row.gradients):  # of one shrink and one growth
        _differentiate(mutation, arrays)
        row.gradients += 1
    check = mutation.check(*arrays)
    if not check.compared:
        row.why[check.reason.rpartition("' ")[2]] += 1
        return
    row.compared += 1
    if any(axis.dropped.size for axis in mutation.plan.changed.values()):
        row.felt += _far(before, after) > 1e-6
        if read := _zeroed(mutation.before, variables, mutation.plan):
            expected = jax.tree.leaves(own(read, *inputs))
            assert _far(expected, after) < 2e-3, f"differs from the zeroed model by {_far(expected, after):.2g}"
            row.own += 1
    else:
        assert _far(before, after) < 2e-3, f"growth changed the function by {_far(before, after):.2g}"


def _differentiate(mutation: Any, arrays: list[Any]) -> None:
    def loss(params: Any) -> Any:
        outputs = jax.tree.leaves(mutation.graph.apply({**mutation.variables, "params": params}, *arrays))
        return sum((jnp.abs(x.astype(jnp.float32)) ** 2).mean() for x in outputs)

    gradient = jax.tree.leaves(jax.jit(jax.grad(loss, allow_int=True))(mutation.variables["params"]))
    arrays = [np.asarray(g, np.float64) for g in gradient if g.dtype != jax.dtypes.float0]
    assert all(np.isfinite(g).all() for g in arrays), "the gradient is not finite"
    assert any(g.any() for g in arrays), "the gradient is zero"


def _zeroed(graph: Any, variables: Any, plan: Any) -> Any:
    """The original variables, zero where weights read what was dropped; the user's own model runs with them."""
    arrays, hit = {}, False
    for path, array in flat(variables).items():
        leaf = graph.ties.leaves[path]
        for dim, (axis, role) in enumerate(zip(leaf.axes, leaf.roles, strict=True)):
            if role == "in" and axis in plan.changed and plan.axes[axis].dropped.size:
                array, hit = np.array(array), True
                array[(slice(None),) * dim + (plan.axes[axis].dropped,)] = 0
        arrays[path] = jnp.asarray(array)
    return nested(arrays) if hit else None


def _far(a: list[Any], b: list[Any]) -> float:
    """The largest difference, relative to the largest entry. In numpy, which compiles nothing."""
    pairs = [(np.asarray(x, np.float64), np.asarray(y, np.float64)) for x, y in zip(a, b, strict=True)]
    return max(float(np.abs(x - y).max() / max(np.abs(x).max(), 1e-6)) for x, y in pairs)


def short(where: str, error: Exception) -> str:
    return f"{where}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200]
