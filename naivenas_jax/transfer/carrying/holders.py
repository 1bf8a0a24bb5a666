"""What the leaves of a tree are: numbers of an optimizer, parameters and statistics beside them, or not told.

A tree that is shaped like the variables says nothing of what it is: it may be gradients. A training state does, and so
do a model, an optimizer object, and a tuple with the state of an optimizer in it: what is no optimizer state there
holds parameters or statistics, unless its name says otherwise.
"""

from __future__ import annotations

import dataclasses
from enum import Enum

import jax
from flax import nnx

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
#: Names of fields by which a record is known to hold a network.
_NETWORK_FIELDS = frozenset(
    {"params", "parameters", "variables", "model", "models", "batch_stats", "opt_state", "optimizer_state"}
)


def role_within(node: PyTree, outside: Role) -> Role:
    """What lies below a node, unless a name says otherwise.

    Args:
      node: a node of a tree.
      outside: what the node itself lies in.
    """
    if outside is Role.STATE or _is_optimizer(node):
        return Role.STATE
    if _is_holder(node):
        return Role.HELD
    return Role.UNKNOWN if outside is Role.HELD and _is_record(node) else outside


def role_below(node: PyTree, name: str, within: Role) -> Role:
    """What lies below a field or key of a node, of which `role_within` said ``within``."""
    if name in _OPTIMIZER_FIELDS and within is not Role.BARE:
        return Role.STATE
    if within is not Role.HELD or name not in _MOMENTS or isinstance(node, nnx.Module):
        return within
    beside = _names(node) & _NETWORK_FIELDS or _has_optimizer(node)  # else it may be the name of a layer
    return Role.STATE if beside else within


def _is_holder(node: PyTree) -> bool:
    if isinstance(node, nnx.Module | nnx.Optimizer):
        return True
    if isinstance(node, nnx.State):  # that of gradients has parameters only
        kinds = [x for x in jax.tree.leaves(node, is_leaf=_is_variable) if isinstance(x, nnx.Variable)]
        return any(not isinstance(x, nnx.Param) for x in kinds)
    if dataclasses.is_dataclass(node) and not isinstance(node, nnx.Variable):
        return True
    if _is_record(node):
        return bool(_names(node) & _NETWORK_FIELDS) or _has_optimizer(node)
    return isinstance(node, tuple | list | dict) and _has_optimizer(node)


def _is_optimizer(node: PyTree) -> bool:
    """Whether a node is the state of an optimizer: of optax, of an ``nnx.Optimizer``, or a record of moments."""
    if type(node).__module__.partition(".")[0] == "optax" or isinstance(node, nnx.OptState):
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
