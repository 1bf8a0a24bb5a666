"""Constructs of real models, each against the same construct written for the new sizes.

The functions read their sizes from their variables, as Flax modules do from their fields. So whatever the graph makes
of its variables, the function itself says what a model of these sizes computes: in evaluation, in the gradient, and at
another batch size. Where no coupled axis changed, a shrink is also compared with the original with zeros where dropped
neurons are read, and a growth with the original.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from constructs import CONSTRUCTS, Construct

import naivenas_jax as nas

ENDS = ("x", "output", "o", "o/0")


def _imported(construct: Construct) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(3)
    shapes = construct.shapes()
    variables = jax.tree_util.tree_map_with_path(lambda path, s: _drawn(rng, path[-1].key, s), shapes)
    x = jnp.asarray(rng.normal(size=construct.x), jnp.float32)
    return *nas.from_function(construct.fn, variables, x), x


def _drawn(rng: np.random.Generator, name: str, struct: Any) -> Any:
    values = rng.normal(size=struct.shape) / 2
    return jnp.asarray(np.abs(values) if name == "var" else values, struct.dtype)


def _zeroed(graph: Any, variables: Any, plan: Any) -> Any:
    """The variables with zeros where dropped neurons are read."""

    def zero(keys: Any, array: Any) -> Any:
        leaf, array = graph.ties.leaves[tuple(key.key for key in keys)], np.array(array)
        for d, (axis, role) in enumerate(zip(leaf.axes, leaf.roles, strict=True)):
            if axis is not None and role == "in":
                array[(slice(None),) * d + (plan.axes[axis].dropped,)] = 0
        return array

    return jax.tree_util.tree_map_with_path(zero, variables)


def _close(a: Any, b: Any) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-3), a, b)


def _handles(graph: Any) -> dict[str, int]:
    return {k: h.size for k, h in graph.handles().items() if k not in ENDS}


@pytest.mark.parametrize("name", CONSTRUCTS)
def test_construct(name: str) -> None:
    """The handles that there should be; each of them shrunk and grown."""
    construct = CONSTRUCTS[name]
    graph, variables, x = _imported(construct)
    handles = graph.handles()
    assert _handles(graph) == construct.sizes
    assert {k for k in construct.sizes if handles[k].coupled} == set(construct.coupled)
    for axis, reason in construct.fixed.items():
        assert reason in graph.fixed()[axis]
    for handle, change in construct.changes.items():
        for sign in (-1, 1):
            mutation = nas.delta_nout(graph, variables, {handle: sign * change})
            assert mutation.graph.handles()[handle].size == construct.sizes[handle] + sign * change
            _compare(construct, graph, variables, mutation, x, shrunk=sign < 0)
    smaller = nas.delta_nout(graph, variables, {k: -v for k, v in list(construct.changes.items())[-1:]})
    assert smaller.check(x).compared or _coupled(graph, smaller.plan)


def _coupled(graph: Any, plan: Any) -> bool:
    """Whether a run that changed is coupled."""
    ties = graph.ties
    kept = {run for axis, row in ties.axes.items() if axis not in plan.changed for run in ties.plain(row)}
    changed = {run for axis in plan.changed for run in ties.plain(ties.axes[axis])} - kept
    return any(run in ties.coupled_runs for run in changed)


def _compare(construct: Construct, graph: Any, before: Any, mutation: Any, x: Any, shrunk: bool) -> None:
    original = _zeroed(graph, before, mutation.plan) if shrunk else before
    found, exact, same = _computed(construct, mutation.graph, mutation.variables, original, x)
    if construct.exact:
        _close(found, exact)
    if not _coupled(graph, mutation.plan):
        _close(found[0], same)
    if not shrunk:
        _learns(graph.ties, found[2], mutation.plan)


def _computed(construct: Construct, new: Any, variables: Any, original: Any, x: Any) -> Any:
    """What the graph and the function make of the new variables: outputs, also of another batch, and gradients.

    And what the function makes of the original variables. Compiled as one: most of the time would go into compiling.
    """
    more = jnp.concatenate([x, -x[:1]])

    def everything(fn: Any, variables: Any) -> Any:
        return fn(variables, x), fn(variables, more), jax.grad(lambda v: jnp.sum(jnp.sin(fn(v, x))))(variables)

    def computed(variables: Any, original: Any) -> Any:
        exact = everything(construct.fn, variables) if construct.exact else None
        return everything(new.apply, variables), exact, construct.fn(original, x)

    return jax.jit(computed)(variables, original)


def _learns(ties: Any, grads: Any, plan: Any) -> None:
    """New neurons are not stuck at zero: what reads or makes them has a gradient there."""
    places = [(path, d, axis) for path, axes in plan.leaves.items() for d, axis in enumerate(axes)]
    grown = [place for place in places if place[2] in plan.changed]
    moving = {
        run
        for path, d, axis in grown
        if np.any(np.take(_at(grads, path), plan.axes[axis].new, axis=d))
        for run in ties.plain(ties.axes[axis])
    }
    assert all(moving & ties.plain(ties.axes[axis]) for _, _, axis in grown)


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return np.asarray(tree)
