"""What the leaves of a tree are: numbers of an optimizer, parameters and statistics beside them, or not told.

A tree that is shaped like the variables says nothing of what it is: it may be gradients. A training state does, and so
do a model, an optimizer object, and a tuple with the state of an optimizer in it: what is no optimizer state there
holds parameters or statistics, unless its name says otherwise.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from enum import Enum

import jax
import numpy as np
from flax import nnx

from naivenas_jax.paths import Path
from naivenas_jax.transfer.carrying.key_paths import names_of
from naivenas_jax.typing import PyTree


class Role(Enum):
    """What a leaf is."""

    BARE = "nothing tells"
    STATE = "a number of an optimizer"
    HELD = "a parameter or statistic, or an average of one"
    UNKNOWN = "in a record of an unknown kind, beside an optimizer"


#: Names of fields that hold the state of an optimizer.
_OPTIMIZER_FIELDS = frozenset({"opt_state", "opt_states", "optimizer_state", "optim_state", "tx_state"})
#: Names of fields that hold what is summed up or averaged of gradients.
_MOMENTS = frozenset(
    {
        *("mu", "nu", "m", "v", "momentum", "velocity", "trace", "exp_avg", "exp_avg_sq", "sum_of_squares"),
        *("grad", "grads", "gradient", "gradients", "updates", "acc_grads", "grad_acc"),
        *("first_moment", "second_moment", "first_moments", "second_moments"),
    }
)
#: Names that are beside moments in the state of an optimizer.
_COUNTS = frozenset({"count", "counts", "step", "steps", "t", "iteration", "lr", "learning_rate"})
#: Names of averages of parameters.
_AVERAGES = frozenset({"ema", "ema_params", "average", "averages", "avg", "polyak", "swa", "shadow", "target", "best"})
#: Names of fields by which a record is known to hold a network.
_NETWORK_FIELDS = frozenset(
    {"params", "parameters", "variables", "model", "models", "batch_stats", "opt_state", "optimizer_state"}
)


def outermost_role(tree: PyTree, spelled: Collection[Path]) -> Role:
    """What a whole tree is: held, if it is the variables with their statistics, of which gradients are never taken."""
    if isinstance(tree, Mapping) and len(tree) > 1 and "params" in tree and _like_variables(tree, spelled):
        return Role.HELD
    return Role.BARE


def role_within(node: PyTree, outside: Role, spelled: Collection[Path]) -> Role:
    """What lies below a node, unless a name says otherwise.

    Args:
      node: a node of a tree.
      outside: what the node itself lies in.
      spelled: the paths of all variables, with and without their collections.
    """
    if outside is Role.STATE or _is_optimizer(node):
        return Role.STATE
    if (of_chain := _role_in_chain(node, spelled)) is not None:
        return of_chain
    if _is_holder(node, spelled):
        return Role.HELD
    return Role.UNKNOWN if outside is Role.HELD and _is_record(node) else outside


def role_below(node: PyTree, name: str, child: PyTree, within: Role, spelled: Collection[Path]) -> Role:
    """What a child of a node is, of which `role_within` said ``within``; ``name`` is its field or key."""
    if name in _OPTIMIZER_FIELDS and within is not Role.BARE:
        return Role.STATE
    if within is Role.HELD and isinstance(node, tuple | list) and _is_plain_state(child, spelled):
        return Role.STATE
    if within is not Role.HELD or name not in _MOMENTS or isinstance(node, nnx.Module):
        return within
    beside = _names(node) & _NETWORK_FIELDS or _has_optimizer(node)  # else it may be the name of a layer
    return Role.STATE if beside else within


def _role_in_chain(node: PyTree, spelled: Collection[Path]) -> Role | None:
    """What lies in a tuple or dict that has states of optax for children, which others may be beside.

    A chain is known by states that hold no arrays, such as those of clipping and schedules: nobody holds these beside
    parameters. Beside a single other state there may be parameters, which are shaped like the variables or named so, or
    the state of somebody's own transformation, which is known by the names of moments; else nobody can tell.

    Returns:
      None if it is no chain.
    """
    if _is_record(node) or not isinstance(node, tuple | list | dict) or not node:
        return None
    children = list(node.values() if isinstance(node, dict) else node)
    states = [child for child in children if _is_of_optax(child)]
    others = [child for child in children if isinstance(child, dict) and jax.tree.leaves(child)]
    if not states or not others or _names(node) & _NETWORK_FIELDS:
        return None
    if not all(any(np.ndim(leaf) for leaf in jax.tree.leaves(state)) for state in states):
        return Role.STATE
    if any(_like_variables(each, spelled) or _names(each) & (_NETWORK_FIELDS | _AVERAGES) for each in others):
        return None
    return Role.STATE if all(_names(each) & _MOMENTS for each in others) else Role.UNKNOWN


def _is_plain_state(node: PyTree, spelled: Collection[Path]) -> bool:
    """Whether a dict is the state of somebody's own optimizer: moments and counts by name, and not the variables."""
    names = _names(node) if isinstance(node, dict) else frozenset()
    return bool(names & _MOMENTS) and names <= _MOMENTS | _COUNTS and not _like_variables(node, spelled)


def _like_variables(node: PyTree, spelled: Collection[Path]) -> bool:
    """Whether all leaves below a node have the paths of variables."""
    paths = [names_of(keys) for keys, _ in jax.tree_util.tree_flatten_with_path(node)[0]]
    return bool(paths) and all(path in spelled for path in paths)


def _is_holder(node: PyTree, spelled: Collection[Path]) -> bool:
    if isinstance(node, nnx.Module | nnx.Optimizer):
        return True
    if isinstance(node, nnx.State):  # that of gradients has parameters only
        kinds = [x for x in jax.tree.leaves(node, is_leaf=_is_variable) if isinstance(x, nnx.Variable)]
        return any(not isinstance(x, nnx.Param) for x in kinds)
    if dataclasses.is_dataclass(node) and not isinstance(node, nnx.Variable):
        return True
    if _is_record(node):
        return bool(_names(node) & _NETWORK_FIELDS) or _has_optimizer(node)
    if isinstance(node, tuple | list) and any(_is_plain_state(child, spelled) for child in node):
        return True
    return isinstance(node, tuple | list | dict) and _has_optimizer(node)


def _is_of_optax(node: PyTree) -> bool:
    return type(node).__module__.partition(".")[0] == "optax"


def _is_optimizer(node: PyTree) -> bool:
    """Whether a node is the state of an optimizer: of optax, of an ``nnx.Optimizer``, or a record of moments."""
    if _is_of_optax(node) or isinstance(node, nnx.OptState):
        return True
    named = _is_record(node) or (dataclasses.is_dataclass(node) and not isinstance(node, nnx.Variable))
    return named and bool(_names(node) & _MOMENTS) and not _names(node) & _NETWORK_FIELDS


def _has_optimizer(node: PyTree) -> bool:
    found = jax.tree.leaves(node, is_leaf=lambda each: each is not node and _is_optimizer(each))
    return any(_is_optimizer(each) for each in found)


def _is_record(node: PyTree) -> bool:
    return isinstance(node, tuple) and hasattr(node, "_fields")


def _is_variable(node: PyTree) -> bool:
    return isinstance(node, nnx.Variable)


def _names(node: PyTree) -> frozenset[str]:
    """The names of the fields or keys of a node."""
    if _is_record(node):
        return frozenset(node._fields)
    if dataclasses.is_dataclass(node):
        return frozenset(field.name for field in dataclasses.fields(node))
    return frozenset(map(str, node)) if isinstance(node, dict) else frozenset()
