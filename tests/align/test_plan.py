"""Plans follow one another across changes of names and structure."""

import copy
import pickle

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
