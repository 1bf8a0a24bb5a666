"""The leaves of any tree, each with its key path and the field of the state that holds it.

Optimizer libraries are not imported: a state is known by the name of its class and of its fields.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator
from dataclasses import dataclass

import jax
import numpy as np
from flax import nnx

from naivenas_jax.paths import Path
from naivenas_jax.transfer.carrying.holders import Role, outermost_role, role_below, role_within
from naivenas_jax.transfer.carrying.key_paths import KeyPath, key_name, names_of
from naivenas_jax.typing import PyTree


@dataclass(frozen=True)
class StateField:
    """Where in an optimizer's state a leaf lies: in which field of the innermost state that has named fields.

    Attributes:
      cls: the name of the state's class; empty where a leaf lies in no such state.
      field: the name of the field.
      keys: the key path of the state.
    """

    cls: str = ""
    field: str = ""
    keys: KeyPath = ()

    def among(self, fields: frozenset[tuple[str, str]]) -> bool:
        """Whether this is one of some fields, given as pairs of class and field."""
        return (self.cls, self.field) in fields


@dataclass(frozen=True, eq=False)
class StateLeaf:
    """One leaf of a tree, or one hole: a ``MaskedNode`` that stands for what another optimizer looks after.

    Attributes:
      keys: the key path.
      value: the leaf.
      owner: the field of the state that holds it.
      hole: whether it is a ``MaskedNode``.
      role: what it is.
      wrapper: what puts a value of its kind into an ``nnx.Variable``; None: it is in none.
    """

    keys: KeyPath
    value: PyTree
    owner: StateField
    hole: bool = False
    role: Role = Role.BARE
    wrapper: jax.tree_util.PyTreeDef | None = None

    @property
    def label(self) -> str:
        """As jax prints the key path: ``[0].mu['conv']['kernel']``."""
        return jax.tree_util.keystr(self.keys) or "the tree itself"

    @property
    def names(self) -> Path:
        """The key path as strings."""
        return names_of(self.keys)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the value; () where it is no array."""
        return tuple(np.shape(self.value))

    def wrapped(self, value: PyTree) -> PyTree:
        """A value that is held as this leaf is."""
        return value if self.wrapper is None else self.wrapper.unflatten([value])

    @property
    def is_array(self) -> bool:
        """Whether the value has a shape and a dtype."""
        return hasattr(self.value, "shape") and hasattr(self.value, "dtype")


# Fields that hold a copy of the parameters, or where they were: a new neuron's entry is its parameter, and not zero.
ITERATES = frozenset(
    {
        ("ScheduleFreeState", "z"),
        ("LookaheadParams", "fast"),
        ("LookaheadParams", "slow"),
        ("MechanicState", "x0"),
        ("MadgradState", "x0"),
        ("ProdigyState", "params0"),
        ("ScaleByDistanceOverGradientsState", "init_params"),
        ("DoGState", "init_params"),
        ("DoWGState", "init_params"),
        ("COCOBState", "init_particles"),
    }
)

# Fields that average what they are given, which may be parameters: new="params" is for these.
AVERAGES = frozenset({("EmaState", "ema")})

# Fields that do not start at zero, and the value at which optax starts them.
STARTS = {("ScaleByRssState", "sum_of_squares"): 0.1, ("COCOBState", "scale"): 1e-8}

# Fields that start at a number which only the optimizer knows, and where zero would keep a neuron from ever moving.
UNKNOWN_STARTS = frozenset({("ScaleByRpropState", "step_sizes")})

# Fields whose arrays have no neurons: coefficients, keys, hyperparameters. They pass through.
CONSTANTS = frozenset(
    {
        ("MuonState", "ns_coeffs"),
        ("InjectHyperparamsState", "hyperparams"),
        ("InjectStatefulHyperparamsState", "hyperparams"),
        ("InjectStatefulHyperparamsState", "hyperparams_states"),
        ("AddNoiseState", "rng_key"),
        ("DifferentiallyPrivateAggregateState", "rng_key"),
        ("HutchinsonState", "key"),
        *(("MechanicState", field) for field in "rmvs"),
    }
)

# Fields that may have the shape of a parameter by coincidence, and mean something else.
REFUSED = frozenset(
    {
        ("GaLoreState", "projector"),
        ("ScaleByLBFGSState", "params"),
        ("ScaleByLBFGSState", "updates"),
        ("ScaleBySM3State", "mu"),  # largest squares over all other dimensions, those of dropped neurons among them
    }
)


def leaves_and_holes(tree: PyTree, spelled: Collection[Path] = ()) -> list[StateLeaf]:
    """The leaves of a tree, in jax's order, and its holes.

    Args:
      tree: the tree.
      spelled: the paths of all variables, with and without their collections, where it matters what the leaves are.
    """
    return list(_walk(tree, (), StateField(), outermost_role(tree, spelled), spelled))


def one_level(node: PyTree) -> tuple[list[tuple[Hashable, PyTree]], jax.tree_util.PyTreeDef] | None:
    """The (key, child) pairs of a node and the treedef that puts the children back; None for a leaf."""
    children, treedef = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda x: x is not node)
    if len(children) == 1 and not children[0][0]:
        return None
    return [(keys[0], child) for keys, child in children], treedef


def is_hole(node: object) -> bool:
    """Whether a node is optax's ``MaskedNode``."""
    return type(node).__name__ == "MaskedNode"


def _walk(
    node: PyTree,
    keys: KeyPath,
    owner: StateField,
    role: Role,
    spelled: Collection[Path],
    wrapper: jax.tree_util.PyTreeDef | None = None,
) -> Iterator[StateLeaf]:
    if is_hole(node):
        yield StateLeaf(keys, node, owner, hole=True, role=role)
        return
    level = one_level(node)
    if level is None:
        yield StateLeaf(keys, node, owner, role=role, wrapper=wrapper)
        return
    within = role_within(node, role, spelled)
    for key, child in level[0]:
        inner = owner
        if isinstance(key, jax.tree_util.GetAttrKey) and key.name != "value":
            inner = StateField(type(node).__name__, key.name, keys)
        wraps = level[1] if isinstance(node, nnx.Variable) else None
        below = role_below(node, key_name(key), child, within, spelled)
        yield from _walk(child, (*keys, key), inner, below, spelled, wraps)
