"""Plans follow one another across changes of names and structure."""

import copy
import pickle
from dataclasses import replace

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest

import naivenas_jax as nas
from naivenas_jax.align.axis_plan import NEW, AxisPlan
from naivenas_jax.align.plan import Plan
from naivenas_jax.sizes.ties import Leaf, Ties

OLD, NEW_NAME, OTHER = ("params", "old", "kernel"), ("params", "new", "kernel"), ("params", "other", "kernel")


def ties(axes: dict[str, int], leaves: dict[tuple[str, ...], str]) -> Ties:
    runs = {axis: (run,) for run, axis in enumerate(axes)}
    return Ties(tuple(axes.values()), runs, {path: Leaf((axis,), ("out",)) for path, axis in leaves.items()}, {}, {})


RENAME = Plan.identity(
    ties({"new": 3, "other": 2}, {NEW_NAME: "new", OTHER: "other"}), moved={NEW_NAME: OLD}, renamed={"new": "old"}
)
REMOVE = Plan.identity(ties({"other": 2}, {OTHER: "other"}), removed=frozenset({NEW_NAME}))


def test_what_is_renamed_and_then_removed_was_removed_under_its_first_name():
    both = REMOVE @ RENAME
    assert both.removed == {OLD}
    assert not both.moved
    assert not both.renamed
    assert set(both.leaves) == {OTHER}
    assert set(both.axes) == {"other"}


def test_what_is_created_renamed_and_removed_was_never_there():
    create = Plan.identity(ties({"old": 3, "other": 2}, {OLD: "old", OTHER: "other"}), created=frozenset({OLD}))
    assert (RENAME @ create).created == {NEW_NAME}
    assert (REMOVE @ (RENAME @ create)).removed == frozenset()
    assert (REMOVE @ RENAME @ create).created == frozenset()


def test_an_identity_plan_takes_changes():
    plan = Plan.identity(
        ties({"a": 2}, {OLD: "a"}),
        axes={"a": AxisPlan.of(3, [0, NEW]), "w": AxisPlan.identity(3)},
        leaves={OLD: ("w",)},
    )
    assert {name: axis.after for name, axis in plan.axes.items()} == {"a": 2, "w": 3}
    assert plan.leaves == {OLD: ("w",)}
    assert Plan.identity(ties({"a": 2}, {OLD: "a"})).named == {}


def test_plans_that_do_not_follow_one_another_are_refused():
    with pytest.raises(nas.PlanError, match="the earlier leaves axis 'a' with 2 neurons, the later expects 3"):
        Plan({"a": AxisPlan.identity(3)}, {}) @ Plan({"a": AxisPlan.identity(2)}, {})


def test_plans_and_ties_can_be_stored():
    own = ties({"a": 2}, {OLD: "a"})
    assert own.sizes == {"a": 2}
    assert copy.deepcopy(own) == pickle.loads(pickle.dumps(own)) == own
    plan = Plan.identity(own)
    assert copy.deepcopy(plan) == pickle.loads(pickle.dumps(plan)) == plan


def test_a_dimension_is_on_an_axis_for_a_part_of_the_changes():
    """The kernel of a depthwise convolution with one channel is that of any convolution: it reads its input."""
    x = nas.input_vertex("x", 2, shape=(4, 2))
    narrow = nas.layer("narrow", nn.Dense(2), x)
    conv = nas.layer("conv", nn.Conv(2, (3,), feature_group_count=2), narrow)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), conv))
    variables = graph.init(jax.random.key(0), np.ones((1, 4, 2)))
    one = nas.delta_nout(graph, variables, {"conv": -1})
    same = nas.rename(*one, {"out": "head"})
    more = nas.delta_nout(*same, {"narrow": 2})
    plan = Plan.from_json((more.plan @ same.plan @ one.plan).to_json())
    path = ("params", "conv", "kernel")
    sizes = [plan.axes[axis] for axis in plan.leaves[path] if axis is not None]
    assert [(axis.before, axis.after) for axis in sizes][-2:] == [(1, 3), (2, 1)]
    one_step = replace(more, plan=plan, variables_before=variables, before=graph)
    state = optax.adam(1e-3).init(variables["params"])
    at_once = one_step.carry(state, fresh=optax.adam(1e-3).init(more.variables["params"]))
    in_steps = more.carry(same.carry(one.carry(state)))
    jax.tree.map(np.testing.assert_array_equal, at_once, in_steps)
