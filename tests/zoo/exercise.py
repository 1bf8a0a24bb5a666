"""What every model of the zoo has to go through."""

from __future__ import annotations

import time
import zlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from models import ZOO, Loaded

import naivenas_jax as nas
from naivenas_jax.transfer.variables import flat, nested

SHRINKS, GROWTHS = 6, 3


@dataclass
class Row:
    """What came out for one model."""

    name: str
    handles: int = 0
    share: float = 0.0
    froze: str = ""
    seconds: float = 0.0
    exact: bool = False
    shrinks: int = 0
    growths: int = 0
    compared: int = 0
    problems: list[str] = field(default_factory=list)


def exercise(name: str) -> Row:
    """Import one model, shrink and grow it at random, and compare."""
    row = Row(name)
    try:
        loaded = ZOO[name]()
        start = time.process_time()
        graph, variables = loaded.bring()
        row.seconds = time.process_time() - start
        _describe(row, graph, variables)
        _mutate(row, loaded, graph, variables)
    except Exception as error:  # the table is to show what happened
        row.problems.append(_short("import", error))
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


def _mutate(row: Row, loaded: Loaded, graph: Any, variables: Any) -> None:
    own = jax.jit(loaded.function)
    with jax.default_matmul_precision("highest"):
        before = _flat(own(variables, *loaded.inputs))
        arrays = jax.tree.leaves(loaded.inputs)
        row.exact = _far(before, _flat(jax.jit(graph.apply)(variables, *arrays))) <= 1e-5
        if not row.exact:
            row.problems.append("the graph differs from the model")
        rng = np.random.default_rng(zlib.crc32(row.name.encode()))
        distinct = {
            frozenset(graph.ties.plain(graph.ties.axes[h.name])): h for h in graph.handles().values() if h.size > 1
        }
        handles = list(distinct.values())  # one of those that are tied altogether
        chosen = [handles[i] for i in rng.permutation(len(handles))]
        for number in range(SHRINKS + GROWTHS if chosen else 0):
            handle = chosen[number % len(chosen)]
            change = int(rng.integers(1, max(2, handle.size // 3)))
            shrink = number < SHRINKS
            try:
                _one(row, own, graph, variables, arrays, loaded, handle, -change if shrink else change, before)
                row.shrinks, row.growths = row.shrinks + shrink, row.growths + (not shrink)
            except Exception as error:
                row.problems.append(_short(f"{handle.name} {-change if shrink else change:+d}", error))


def _one(
    row: Row, own: Any, graph: Any, variables: Any, arrays: Any, loaded: Loaded, handle: Any, change: int, before: Any
) -> None:
    mutation = nas.delta_nout(graph, variables, {handle.name: nas.relaxed(change)})

    def loss(params: Any) -> Any:
        outputs = _flat(mutation.graph.apply({**mutation.variables, "params": params}, *arrays))
        return sum((x.astype(jnp.float32) ** 2).mean() for x in outputs), outputs

    gradient, after = jax.jit(jax.grad(loss, has_aux=True))(mutation.variables["params"])
    assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(gradient)), "gradient is not finite"
    if any(axis in graph.ties.coupled for axis in mutation.plan.changed):
        return
    if change > 0:
        assert _far(before, after) < 2e-3, f"growth changed the function by {_far(before, after):.2g}"
    elif read := _zeroed(graph, variables, mutation.plan):
        expected = _flat(own(read, *loaded.inputs))
        assert _far(expected, after) < 2e-3, f"differs from the zeroed model by {_far(expected, after):.2g}"
    row.compared += 1


def _zeroed(graph: Any, variables: Any, plan: Any) -> Any:
    """The original variables, zero where weights read what was dropped; the user's own model runs with them."""
    arrays, hit = {}, False
    for path, array in flat(variables).items():
        leaf = graph.ties.leaves[path]
        for dim, (axis, role) in enumerate(zip(leaf.axes, leaf.roles, strict=True)):
            if role == "in" and axis in plan.changed and plan.axes[axis].dropped.size:
                array = jnp.asarray(array).at[(slice(None),) * dim + (plan.axes[axis].dropped,)].set(0)
                hit = True
        arrays[path] = array
    return nested(arrays) if hit else None


def _flat(outputs: Any) -> list[Any]:
    return jax.tree.leaves(outputs)


def _far(a: list[Any], b: list[Any]) -> float:
    """The largest difference, relative to the largest entry."""
    return max(float(jnp.abs(x - y).max() / jnp.maximum(jnp.abs(x).max(), 1e-6)) for x, y in zip(a, b, strict=True))


def _short(where: str, error: Exception) -> str:
    return f"{where}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200]
