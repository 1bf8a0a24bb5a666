"""One test per rule of the table of primitives, each against the original with the dropped neurons zeroed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rules import CASES, Case

import naivenas_jax as nas
from naivenas_jax.jaxpr.primitive_tables import FROZEN
from naivenas_jax.trace.program.analysis import TIES


class Network(NamedTuple):
    """A case, imported."""

    case: Case
    graph: Any
    variables: Any
    x: Any


@cache
def _network(name: str) -> Network:
    case, rng = CASES[name], np.random.default_rng(1)
    params = {k: {"kernel": jnp.asarray(rng.normal(size=s) / 2, jnp.float32)} for k, s in case.shapes.items()}
    x = jnp.asarray(rng.normal(size=case.x), jnp.float32) if isinstance(case.x, tuple) else case.x
    variables = {"params": params}
    graph, imported = nas.from_function(case.fn, variables, x)
    assert jax.tree.all(jax.tree.map(lambda a, b: a is b, variables, imported))
    return Network(case, graph, imported, x)


def _masked(graph: Any, variables: Any, plan: Any) -> Any:
    """The variables with zeros where dropped neurons are read."""
    arrays = jax.tree_util.tree_map(np.array, variables)
    for path, leaf in graph.ties.leaves.items():
        array = arrays
        for key in path:
            array = array[key]
        for d, (axis, role) in enumerate(zip(leaf.axes, leaf.roles, strict=True)):
            if axis is not None and role == "in":
                array[(slice(None),) * d + (plan.axes[axis].dropped,)] = 0
    return arrays


def _kept(plan: Any, tree: Any) -> Any:
    """What the plan keeps of a tree shaped like the old variables; zero where it has something new."""

    def take(keys: Any, given: Any) -> Any:
        array = np.asarray(given)
        for d, axis in enumerate(plan.leaves[tuple(key.key for key in keys)]):
            if axis is not None:
                source = np.expand_dims(plan.axes[axis].source, [o for o in range(array.ndim) if o != d])
                array = np.where(source < 0, 0, np.take(array, plan.axes[axis].source, axis=d, mode="clip"))
        return array

    return jax.tree_util.tree_map_with_path(take, tree)


def _given(plan: Any, x: Any) -> Any:
    """The input of the new network: without what it lost, and with zeros where it gained something."""
    source = plan.axes["x"].source if "x" in plan.axes else np.arange(0)
    return np.where(source < 0, 0, np.take(x, source, axis=-1, mode="clip")) if "x" in plan.changed else x


def _common(plan: Any, new: Any, old: Any) -> tuple[Any, Any]:
    """Those neurons of the output that both networks have."""
    return (new[..., plan.axes["output"].source >= 0], _left(plan, old)) if "output" in plan.changed else (new, old)


def _left(plan: Any, old: Any) -> Any:
    source = plan.axes["output"].source
    return old[..., source[source >= 0]] if "output" in plan.changed else old


# Operation by operation most is compiled already, by other cases; only once for each case the whole is compiled.
def _grad(fn: Any, variables: Any, x: Any) -> Any:
    return jax.grad(lambda v: jnp.sum(jnp.sin(fn(v, x))))(variables)


@pytest.fixture(autouse=True)
def _precise() -> Iterator[None]:
    """As the oracle computes, so that each operation is compiled once."""
    with jax.default_matmul_precision("highest"):
        yield


def _asked(case: Case, graph: Any) -> list[str]:
    """One handle of those that are one axis. Ends, by their own names, where they are not those of all other cases.

    Of vocabularies, whose words inputs have the numbers of, `test_vocabulary` is.
    """
    rows: dict[Any, str] = {}
    ends = () if case.sizes and case.shapes.keys() == {"a", "b"} else ("x", "output")
    for name in (*ends, *(name for name in graph.handles() if name not in ("x", "output"))):
        if name in graph.handles() and graph.ties.indexed.isdisjoint(graph.ties.axes[name]):
            rows.setdefault(graph.ties.axes[name], name)
    return list(rows.values())


def _coupled(graph: Any, plan: Any) -> bool:
    return any(graph.ties.coupled.get(axis) for axis in plan.changed)


def _close(a: Any, b: Any) -> None:
    np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("name", CASES)
def test_ties(name: str) -> None:
    """The handles that there should be, tied as they should be, and for the others the reason."""
    case, graph, variables, x = _network(name)
    handles = graph.handles()
    assert {k: handles[k].size for k in case.sizes if k in handles} == case.sizes
    for a, b in case.tied:
        assert b in handles[a].tied_to
    for axis, reason in case.fixed.items():
        assert reason in graph.fixed()[axis]
    for axis in set(case.fixed) - set(case.sizes):
        assert axis not in handles
    for axis in case.sizes:
        assert (handles[axis].coupled is not None) == (axis in case.coupled)
    _close(graph.apply(variables, x), case.fn(variables, x))


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.sizes or case.step > 1])
def test_every_single_drop(name: str) -> None:
    """Whichever neuron goes: the outputs of the original with it zeroed, under jit; and the gradient."""
    case, graph, variables, _ = _network(name)
    dropped = 0
    for handle in _asked(case, graph):
        size, ends = graph.ties.size(handle), handle in ("x", "output")
        for neuron in range(1 if ends else size):
            scores = np.where(np.arange(size) == neuron, -100.0, 1.0)
            change = {handle: -1 if ends else -case.step}
            try:
                mutation = nas.delta_nout(graph, variables, change, utility={handle: scores})
            except (nas.InfeasibleError, nas.RequestError) as error:
                _explained(graph, handle, change[handle], str(error))
                continue
            _compare_dropped(name, mutation, whole=not dropped, gradient=neuron == 0)
            dropped += 1
    assert dropped


def _explained(graph: Any, handle: str, change: int, message: str) -> None:
    """A change is refused only if no sizes make it possible, or only with several factors of a product at once."""
    assert repr(handle) in message
    alone = "several change at once only if the size of each is requested exactly" in message
    assert alone or not _possible(graph.ties, handle, graph.ties.size(handle) + change), message


def _possible(ties: Any, handle: str, wish: int) -> bool:
    """Whether some sizes of the runs on an axis, all counted out, make it as long as wished."""
    free = sorted(ties.plain(ties.axes[handle]) - ties.fixed.keys())
    most = max(0, wish - ties.size(handle))  # new neurons in a run
    for counts in itertools.product(*(range(ties.run_sizes[run] + most + 1) for run in free)):
        now = dict(zip(free, counts, strict=True))
        sizes = {axis: _length(ties, now, row) for axis, row in ties.axes.items()}
        some = all(size or (axis[0] == "~" and axis[1:].isdigit()) for axis, size in sizes.items())  # ~3: but one run
        if sizes[handle] == wish and some and all(row.holds(sizes) for row in ties.conditions):
            return True
    return False


def _length(ties: Any, now: dict[int, int], runs: tuple[int, ...]) -> int:
    """The size of an axis with so many neurons in its runs."""
    found = 0
    for run in runs:
        rows = ties.products.get(run)
        known = now.get(run, ties.run_sizes[run])
        found += math.prod(_length(ties, now, row) for row in rows) if rows else known
    return found


def _compare_dropped(name: str, mutation: Any, whole: bool, gradient: bool) -> None:
    case, graph, variables, x = _network(name)
    given, plan = _given(mutation.plan, x), mutation.plan
    got = mutation.graph.apply(mutation.variables, given)
    if whole:
        mutation.check(x)
        _close(jax.jit(nas.apply)(mutation.graph, mutation.variables, given), got)
    if _coupled(graph, plan):
        assert np.isfinite(got).all()
        return
    masked = _masked(graph, variables, plan)
    _close(*_common(plan, got, case.fn(masked, x)))
    if gradient:
        wanted = _kept(plan, _grad(lambda v, x: _left(plan, case.fn(v, x)), masked, x))
        grads = _grad(mutation.graph.apply, mutation.variables, given)
        jax.tree.map(lambda g, w: _close(np.where(w == 0, w, g), w), grads, wanted)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.sizes])
def test_growth(name: str) -> None:
    """New neurons change nothing at first, where the axis is not coupled."""
    case, graph, variables, x = _network(name)
    for handle in _asked(case, graph):
        change = {handle: 1 if handle in ("x", "output") else case.step}
        try:
            mutation = nas.delta_nout(graph, variables, change)
        except nas.InfeasibleError as error:
            _explained(graph, handle, change[handle], str(error))
            continue
        given = _given(mutation.plan, x)
        got = mutation.graph.apply(mutation.variables, given)
        grads = _grad(mutation.graph.apply, mutation.variables, given)
        assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
        if not _coupled(graph, mutation.plan):
            _close(*_common(mutation.plan, got, case.fn(variables, x)))


def _primitives(jaxpr: Any) -> set[str]:
    found = set()
    for eqn in jaxpr.eqns:
        found.add(eqn.primitive.name)
        for value in eqn.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                    found |= _primitives(getattr(inner, "jaxpr", inner))
    return found


def test_every_primitive_has_a_rule() -> None:
    """Every primitive of these networks is in the table, or is left fixed for a reason that is written down."""
    used = set()
    for case in CASES.values():
        params = {k: {"kernel": jnp.zeros(shape)} for k, shape in case.shapes.items()}
        x = jnp.zeros(case.x) if isinstance(case.x, tuple) else case.x
        used |= _primitives(jax.make_jaxpr(case.fn)({"params": params}, x).jaxpr)
    assert used - set(TIES) - set(FROZEN) == set()
    assert len(used) > 80


def test_a_loop_without_a_derivative_picks_the_weights_of_its_round() -> None:
    def function(v: Any, x: Any) -> Any:
        p = {name: jnp.asarray(leaf["kernel"]) for name, leaf in v["params"].items()}
        body = lambda s: (s[0] + 1, s[1] + jnp.tanh(s[1] @ p["u"][s[0]]) @ p["d"][s[0]])  # noqa: E731
        return jax.lax.while_loop(lambda s: s[0] < 3, body, (0, x @ p["a"]))[1] @ p["b"]

    rng, shapes = np.random.default_rng(2), {"a": (3, 6), "u": (3, 6, 5), "d": (3, 5, 6), "b": (6, 2)}
    variables = {"params": {k: {"kernel": rng.normal(size=s).astype(np.float32) / 2} for k, s in shapes.items()}}
    x = rng.normal(size=(4, 3)).astype(np.float32)
    graph, variables = nas.from_function(function, variables, x)
    assert graph.handles()["a"].coupled is None
    mutation = nas.delta_nout(graph, variables, {"a": -2, "u": -1})
    _close(mutation.graph.apply(mutation.variables, x), function(_masked(graph, variables, mutation.plan), x))
