"""One test per rule of the table of primitives, each against the original with the dropped neurons zeroed."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rules import CASES, Case

import naivenas_jax as nas
from naivenas_jax.trace.table import FROZEN, TIES


def _network(case: Case) -> tuple[Any, Any, Any]:
    keys = iter(jax.random.split(jax.random.key(1), len(case.shapes) + 1))
    params = {k: {"kernel": jax.random.normal(next(keys), shape) / 2} for k, shape in case.shapes.items()}
    x = jax.random.normal(next(keys), case.x) if isinstance(case.x, tuple) else case.x
    variables = {"params": params}
    graph, imported = nas.from_function(case.fn, variables, x)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), variables, imported))
    return graph, imported, x


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

    def take(keys: Any, array: Any) -> Any:
        for d, axis in enumerate(plan.leaves[tuple(key.key for key in keys)]):
            if axis is not None:
                source = np.expand_dims(plan.axes[axis].source, [o for o in range(array.ndim) if o != d])
                array = jnp.where(source < 0, 0, jnp.take(array, plan.axes[axis].source, axis=d, mode="clip"))
        return array

    return jax.tree_util.tree_map_with_path(take, tree)


def _loss(case: Case, v: Any, x: Any) -> Any:
    return jnp.sum(jnp.sin(case.fn(v, x)))


def _close(a: Any, b: Any) -> None:
    np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("name", CASES)
def test_ties(name: str) -> None:
    """The handles that there should be, tied as they should be, and for the others the reason."""
    case = CASES[name]
    graph, variables, x = _network(case)
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
    case = CASES[name]
    graph, variables, x = _network(case)
    for handle, size in ((h, graph.handles()[h].size) for h in graph.handles()):
        for neuron in range(size):
            scores = np.where(np.arange(size) == neuron, -100.0, 1.0)
            try:
                mutation = nas.delta_nout(graph, variables, {handle: -case.step}, utility={handle: scores})
            except nas.InfeasibleError:
                continue
            got = jax.jit(nas.apply)(mutation.graph, mutation.variables, x)
            mutation.check(x)
            if any(h.coupled for h in (graph.handles()[k] for k in graph.handles() if k in mutation.plan.changed)):
                assert np.isfinite(got).all()
                continue
            masked = _masked(graph, variables, mutation.plan)
            _close(got, case.fn(masked, x))
            if neuron == 0:
                grads = jax.grad(lambda v, m=mutation: jnp.sum(jnp.sin(m.graph.apply(v, x))))(mutation.variables)
                wanted = _kept(mutation.plan, jax.grad(lambda v: _loss(case, v, x))(masked))
                jax.tree.map(lambda g, w: _close(jnp.where(w == 0, w, g), w), grads, wanted)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.sizes])
def test_growth(name: str) -> None:
    """New neurons change nothing at first, where the axis is not coupled."""
    case = CASES[name]
    graph, variables, x = _network(case)
    for handle in graph.handles():
        try:
            mutation = nas.delta_nout(graph, variables, {handle: case.step})
        except nas.InfeasibleError:
            continue
        got = mutation.graph.apply(mutation.variables, x)
        grads = jax.grad(lambda v, m=mutation: jnp.sum(jnp.sin(m.graph.apply(v, x))))(mutation.variables)
        assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
        if not any(graph.handles()[k].coupled for k in graph.handles() if k in mutation.plan.changed):
            _close(got, case.fn(variables, x))


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
