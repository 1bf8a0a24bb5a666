"""Optimizer state, averages, gradients and masks, carried through a plan.

Each leaf is matched to a variable (``match``) and indexed as the variable is (``take``), so that surviving neurons keep
their moments. What new neurons start with is decided per leaf, by the first of these that applies:

1. a fresh start is given (``fresh``): what it has there;
2. the leaf is known to hold a copy of parameters (schedule_free's ``z``, lookahead's ``slow``, ...; the table is
   ``states.ITERATES``): the new parameters;
3. it belongs to an optimizer: zero, with ``new="params"`` too, but for averages (``states.AVERAGES``);
4. it lies in a training state, a model or beside the state of an optimizer (``holders``), or ``new="params"``: what the
   new parameters and statistics are;
5. zero.

A statistic whose meaning changes with the sizes (``factored``) starts again, which is reported and logged.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass
from typing import Literal

import jax

from naivenas_jax.align.plan import Plan
from naivenas_jax.checks import is_one_of, shown
from naivenas_jax.errors import CarryError
from naivenas_jax.paths import Path, path_text
from naivenas_jax.transfer.carrying.carry_rules import HINT, CarriedLeaf, CarryRules
from naivenas_jax.transfer.carrying.graft import TreeEdit, graft, growth
from naivenas_jax.transfer.carrying.match import VariableMatcher
from naivenas_jax.transfer.carrying.renaming import follow_names
from naivenas_jax.transfer.carrying.states import StateLeaf, is_hole, leaves_and_holes, one_level
from naivenas_jax.typing import PyTree, Shape

logger = logging.getLogger("naivenas_jax")


@dataclass(frozen=True)
class CarryReport:
    """What became of the leaves of a carried tree: the second result of ``Mutation.carry(tree, report=True)``.

    Leaves are named as jax prints their key paths, ``[0].mu['conv']['kernel']``. Scalars that belong to no variable,
    such as step counts, pass through and count as carried.

    Attributes:
      carried: the leaves whose old numbers live on.
      restarted: pairs of a leaf whose old numbers could not be kept, and the reason.

    >>> import jax, numpy as np, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 2)
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(1), nas.layer("hidden", nn.Dense(3), x)))
    >>> variables = graph.init(jax.random.key(0), np.ones((1, 2)))
    >>> mutation = nas.delta_nout(graph, variables, {"hidden": -1})
    >>> averages, report = mutation.carry({"hidden": {"bias": np.zeros(3)}}, report=True)
    >>> averages["hidden"]["bias"].shape, report
    ((2,), CarryReport(carried=("['hidden']['bias']",), restarted=()))
    """

    carried: tuple[str, ...]
    restarted: tuple[tuple[str, str], ...] = ()


def carry(
    plan: Plan,
    tree: PyTree,
    before: PyTree,
    after: PyTree,
    *,
    fresh: PyTree = None,
    new: Literal["zeros", "params"] = "zeros",
    under: Path = (),
    quiet: bool = False,
) -> tuple[PyTree, CarryReport]:
    """Carry a tree that is shaped like the variables, or like some of them, through a plan.

    Args:
      plan: leads from ``before`` to ``after``.
      tree: anything whose leaves belong to variables: the state of ``tx.init(variables["params"])`` or of
        ``tx.init(variables)``, averages, gradients, masks, the variables themselves.
      before: the variables the plan was made for, or their ``jax.ShapeDtypeStruct``.
      after: the variables the plan leads to; their shapes suffice, unless new entries take the new parameters' values.
      fresh: ``tx.init(new_params)``. The result then has exactly its structure. Needed only where the structure is
        not clear from the tree: variables were created and the state is masked, partitioned or factored.
      new: what entries of new neurons are where ``fresh`` does not say: "zeros" (with the exceptions in the module's
        docstring), or "params" for averages of the parameters; moments of an optimizer start at zero in any case.
      under: the tree is shaped like the variables below this path, as for an optimizer of ``params["critic"]`` alone.
      quiet: whether what starts again is not logged.

    Returns:
      The carried tree, and a report of what was kept and what had to start again.

    Raises:
      CarryError: a leaf belongs to no variable or to several that change differently, or the structure is not clear.
      PlanError: a leaf is traced, or spread over several processes.

    >>> import numpy as np
    >>> from naivenas_jax.align.plan import AxisPlan
    >>> plan = Plan({"a": AxisPlan.of(3, [0, 2, -1])}, {("params", "a", "bias"): ("a",)})
    >>> variables = {"params": {"a": {"bias": np.ones(3)}}}
    >>> state, report = carry(plan, {"mu": {"a": {"bias": np.array([1., 2., 3.])}}}, variables, variables)
    >>> state["mu"]["a"]["bias"].tolist(), report.carried
    ([1.0, 3.0, 0.0], ("['mu']['a']['bias']",))
    """
    if not is_one_of(new, ("zeros", "params")):
        raise CarryError(f'new={shown(new)} is neither "zeros" nor "params".')
    if not isinstance(under, tuple):
        raise CarryError(f"under must be a path, a tuple of names such as ('params', 'critic'); found {shown(under)}.")
    check_tree(tree)
    if plan.moved:
        plan, tree, before = follow_names(plan, tree, before, under)
    variables = VariableMatcher.of(plan, before, after, under)
    leaves = leaves_and_holes(tree, variables.spelled)
    rules = CarryRules.of(variables, leaves, new == "params")
    done, report = _in_place(rules, tree, leaves) if fresh is None else _into(rules, leaves, fresh)
    if not quiet:
        log(report)
    return done, report


def log(report: CarryReport) -> None:
    """Warn of every leaf that starts again."""
    for label, reason in report.restarted:
        logger.warning("%s starts again: %s", label, reason)


def check_tree(tree: PyTree) -> None:
    """Raise unless this is a tree that may have something to carry.

    Raises:
      CarryError: says what it is, and what is carried instead.
    """
    for keys, node in jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_transformation)[0]:
        if _is_transformation(node):
            raise CarryError(
                "carry takes the state of an optimizer, tx.init(params), and not the optimizer; "
                f"{jax.tree_util.keystr(keys) or 'the tree'} is a {type(node).__name__}."
            )
    if isinstance(tree, tuple | list | Mapping) or is_hole(tree) or bool(getattr(tree, "shape", ())):
        return
    if one_level(tree) is None or not jax.tree.leaves(tree):
        raise CarryError(
            "carry takes a tree with arrays that belong to variables: an optimizer's state, averages, gradients, "
            f"masks, a training state, a model. Found {tree!r:.80}, a {type(tree).__name__}."
        )


def _is_transformation(node: object) -> bool:
    """Whether a node is an optimizer and not its state; optax has them as tuples of two functions."""
    return isinstance(node, tuple) and all(callable(getattr(node, name, None)) for name in ("init", "update"))


def _in_place(rules: CarryRules, tree: PyTree, leaves: list[StateLeaf]) -> tuple[PyTree, CarryReport]:
    """The tree's own structure, less what was removed, plus what was created wherever all variables have a place."""
    plan = rules.variables.plan
    entries = [(leaf, rules.carried_hole(leaf) if leaf.hole else rules.carried(leaf)) for leaf in leaves]
    report = _report([(leaf, entry) for leaf, entry in entries if not leaf.hole])
    if not plan.created and not plan.removed:
        treedef = jax.tree_util.tree_structure(tree)
        leaves_now = [entry.value for leaf, entry in entries if not leaf.hole]
        return jax.tree_util.tree_unflatten(treedef, leaves_now), report
    _check_collections(rules, entries)
    edit = TreeEdit(
        values={leaf.keys: entry.value for leaf, entry in entries if not leaf.hole and not entry.gone},
        cut=frozenset(leaf.keys for leaf, entry in entries if entry.gone),
        grown=growth(rules, entries) if plan.created - rules.variables.before.keys() else {},
    )
    return graft(tree, edit), report


def _into(rules: CarryRules, leaves: list[StateLeaf], fresh: PyTree) -> tuple[PyTree, CarryReport]:
    """The structure of a fresh start, with what the leaves of the tree become in their places."""
    old = [leaf for leaf in leaves if not leaf.hole]
    places = [leaf for leaf in leaves_and_holes(fresh) if not leaf.hole]
    found = _counterparts(rules.variables, old, places)
    entries = [(place, _placed(rules, leaf, place)) for place, leaf in zip(places, found, strict=True)]
    taken = {id(leaf) for leaf in found}
    for leaf in (leaf for leaf in old if id(leaf) not in taken):
        if not rules.carried(leaf).gone:
            entries.append((leaf, CarriedLeaf(restarted="a fresh start has no place for it, and it was dropped")))
    treedef = jax.tree_util.tree_structure(fresh)
    created = rules.variables.plan.created
    report = _report([(leaf, entry) for leaf, entry in entries if entry.restarted or entry.path not in created])
    return jax.tree_util.tree_unflatten(treedef, [entry.value for _, entry in entries[: len(places)]]), report


def _counterparts(variables: VariableMatcher, old: list[StateLeaf], places: list[StateLeaf]) -> list[StateLeaf | None]:
    """For each place of a fresh start the old leaf of the same names.

    Where there is none, the only old leaf in the same field of a state of the same class, under the same names or of
    the same variable: one tree may be of dicts, and the other of an ``nnx.Optimizer``, of the user's model or of
    ``graph.as_nnx``.
    """
    by_names = {leaf.names: leaf for leaf in old}
    by_field, by_variable = _by(_field_of, old), _by(lambda leaf: _variable_of(variables.before, leaf), old)

    def only(leaves: list[StateLeaf]) -> StateLeaf | None:
        return leaves[0] if len(leaves) == 1 else None

    return [
        by_names.get(place.names)
        or (only(by_field.get(_field_of(place), [])) if place.owner.cls else None)
        or (only(by_variable.get(own, [])) if (own := _variable_of(variables.after, place)) else None)
        for place in places
    ]


def _by(key: Callable[[StateLeaf], Hashable], leaves: list[StateLeaf]) -> dict[Hashable, list[StateLeaf]]:
    found: dict[Hashable, list[StateLeaf]] = {}
    for leaf in leaves:
        found.setdefault(key(leaf), []).append(leaf)
    return found


def _field_of(leaf: StateLeaf) -> tuple[str, Path]:
    return leaf.owner.cls, leaf.names[len(leaf.owner.keys) :]


def _variable_of(paths: Collection[Path], leaf: StateLeaf) -> tuple[str, str, Path] | None:
    """The field that a leaf lies in, and the variable that it is of by its name; None: it is of no known state."""
    names = _field_of(leaf)[1]
    ends = (names[start:] for start in range(1, len(names)))
    own = next((path for end in ends for path in (end, ("params", *end)) if path in paths), None)
    return None if own is None or not leaf.owner.cls else (leaf.owner.cls, leaf.owner.field, own)


def _placed(rules: CarryRules, leaf: StateLeaf | None, place: StateLeaf) -> CarriedLeaf:
    """What comes to one place of a fresh start."""
    if leaf is None:
        path = rules.variables.created_at(place.names)
        if isinstance(place.value, Shape) and not rules.abstract:
            raise CarryError(
                f"`fresh` holds only the shape of {place.label}, which is new. Give the arrays themselves."
            )
        return CarriedLeaf(place.value, path, restarted="" if path else "the tree held nothing there")
    entry = rules.carried(leaf, place)
    if entry.gone:
        raise CarryError(
            f"`fresh` has {place.label}, which the plan removed. It has to be made for the new variables: "
            "fresh=tx.init(new_params)."
        )
    return entry


def _check_collections(rules: CarryRules, entries: list[tuple[StateLeaf, CarriedLeaf]]) -> None:
    """A collection that did not exist before has no place that could be recognised."""
    variables = rules.variables
    alien = variables.plan.created - {p for p in variables.plan.created if any(p[0] == q[0] for q in variables.before)}
    held = [(leaf, entry.path) for leaf, entry in entries if entry.path is not None]
    named = any(len(variables.form_of(path, leaf)) == len(path) for leaf, path in held)
    if alien and not variables.under and (named or not held):
        path = path_text(min(alien))
        raise CarryError(f"{path} is the first of its collection, and its place in the tree is unknown. {HINT}")


def _report(entries: list[tuple[StateLeaf, CarriedLeaf]]) -> CarryReport:
    return CarryReport(
        carried=tuple(leaf.label for leaf, entry in entries if not entry.gone and not entry.restarted),
        restarted=tuple((leaf.label, entry.restarted) for leaf, entry in entries if entry.restarted),
    )
