"""Soft mode: neurons that are to go are zero where they are read, and all shapes stay.

A shrink drops neurons; setting every weight that reads one of them to zero gives the same function. Masks that do so
have the same shapes whatever is dropped, so that a training step is compiled once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from naivenas_jax.align.plan import Plan
from naivenas_jax.errors import PlanError, StructureError, VariablesError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.structure import is_array
from naivenas_jax.mutate.edit.widths import carry_out
from naivenas_jax.mutate.request.options import Options
from naivenas_jax.mutate.result.mutation import Mutation, require_mutation
from naivenas_jax.paths import Path
from naivenas_jax.sizes.ties import Leaf
from naivenas_jax.sizes.weight_function import WeightFunction
from naivenas_jax.transfer.variables import as_given, check_network, check_variables, flat, handed_out, nested
from naivenas_jax.typing import PyTree, Variables


def soft_masks(mutation: Mutation) -> Variables:
    """Masks for the variables *before* a shrink, with which they compute what the variables after it do.

    For a weight ``W`` of shape (..., in, out) whose input neurons are kept where ``m`` is 1, the mask is ``m`` along
    ``in`` and 1 along all others, so that ``masked(variables, masks)`` has ``W * m[:, None]``. What reads no neurons of
    the graph has a mask of one 1. Shapes of masks depend on the graph only, never on what is dropped. Where the weight
    is a function of the stored array, as in ``x @ (w - 0.3)``, the mask is a node of the tree that holds the factor and
    knows where the weight is 0; `masked` puts entries there.

    Outputs of the graph keep their shape: of an output that was to lose neurons, those that stay are compared.

    Args:
      mutation: a change of width that only drops neurons.

    Returns:
      A tree like the variables before the mutation, whose leaves broadcast against them.

    Raises:
      PlanError: if no mutation is given.
      StructureError: if neurons are new, the structure changed, variables were re-fitted, an input of the graph
        shrinks, or a dropped neuron is coupled (normalised over, for example): it would not be the same to be zero and
        not to be there.

    Source: masks during training, Zhu & Gupta, To Prune, or Not to Prune, 2017; here of neurons.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("hidden", nn.Dense(3), x)))
    >>> variables = graph.init(jax.random.key(0), jax.numpy.ones((1, 3)))
    >>> mutation = nas.delta_nout(graph, variables, {"hidden": -1}, utility={"hidden": [2.0, 1.0, 3.0]})
    >>> nas.soft_masks(mutation)["params"]["out"]["kernel"].ravel().tolist()
    [1.0, 0.0, 1.0]
    """
    _require_shrink(mutation)
    return masks_of(mutation.before, mutation.plan, mutation.variables_before)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class ComputedMask:
    """The mask of a variable that becomes a weight by a function: where it is masked, the weight is 0.

    Attributes:
      factor: 1 for entries that stay as they are, 0 for those that read nothing.
      weight: where entries have to be for a weight of 0 (for ``w - 0.3`` at 0.3), given all variables.
    """

    factor: jax.Array
    weight: WeightFunction = field(metadata={"static": True})

    def applied(self, array: ArrayLike, arrays: Mapping[Path, jax.Array]) -> jax.Array:
        """The variable, with entries that are masked put where the weight is 0."""
        own = jnp.asarray(array)
        return jnp.where(self.factor == 1, own, jnp.asarray(self.weight.switched_off(arrays), own.dtype))


def masked(variables: PyTree, masks: PyTree) -> PyTree:
    """``variables * masks``, leaf by leaf; differentiable, and traced once for all masks of a graph.

    A variable that becomes a weight by a function, ``w - 0.3``, is not multiplied: where it is masked, it is put to
    the value at which the weight is 0.

    Args:
      variables: any tree of arrays. Keys and flags stay as they are.
      masks: a tree of the same structure; its leaves broadcast against those of ``variables``.

    Returns:
      A tree like ``variables``.

    Raises:
      VariablesError: if the trees differ.

    >>> import jax.numpy as jnp, naivenas_jax as nas
    >>> nas.masked({"w": jnp.array([[1.0, 2.0]])}, {"w": jnp.array([[0.0, 1.0]])})["w"].tolist()
    [[0.0, 2.0]]
    """
    leaves, tree = jax.tree.flatten(masks, is_leaf=lambda node: isinstance(node, ComputedMask))
    found, wanted = str(tree), str(jax.tree.structure(variables))
    if found != wanted:
        raise VariablesError(
            f"masks= must be a tree like the variables, as nas.Soft and nas.soft_masks make them; found {found:.200} "
            f"where the variables are {wanted:.200}."
        )
    computed = any(isinstance(leaf, ComputedMask) for leaf in leaves)
    arrays = flat(variables) if computed else {}
    every = [
        mask.applied(array, arrays) if isinstance(mask, ComputedMask) else _times(array, mask)
        for array, mask in zip(jax.tree.leaves(variables), leaves, strict=True)
    ]
    return jax.tree.unflatten(tree, every)


def masks_of(graph: Graph, plan: Plan | None, variables: Variables) -> Variables:
    """The masks of a plan that only drops neurons.

    Args:
      graph: the network before.
      plan: the plan; None: nothing is dropped.
      variables: the variables before, or their shapes.
    """
    arrays, leaves = flat(variables), graph.ties.leaves
    masks = {path: _mask(leaves[path], plan, np.shape(array)) for path, array in arrays.items()}
    made: Variables = as_given(nested(masks), variables)
    return made


def _times(array: ArrayLike, mask: ArrayLike) -> ArrayLike:
    if not is_array(array):
        return array  # a constant beside the variables
    if jnp.issubdtype(jnp.result_type(array), jnp.integer):
        return jnp.where(jnp.asarray(mask) == 0, 0, array)  # quantised weights; counters have a mask of 1
    if not jnp.issubdtype(jnp.result_type(array), jnp.inexact):
        return array  # keys and flags; no weight reads neurons with them
    return array * jnp.asarray(mask, jnp.result_type(array))


def _mask(leaf: Leaf, plan: Plan | None, shape: tuple[int, ...]) -> jax.Array | ComputedMask:
    mask = np.ones([n if _reads(leaf, d) else 1 for d, n in enumerate(shape)], np.float32)
    for dim in range(len(shape)):
        axis = leaf.axes[dim]
        if plan is not None and axis is not None and _reads(leaf, dim):
            mask[(slice(None),) * dim + (plan.axes[axis].dropped,)] = 0
    factor = jnp.asarray(mask)
    return (
        factor
        if leaf.weight is None or leaf.weight.linear or not leaf.weight.switches
        else ComputedMask(factor, leaf.weight)
    )


def _reads(leaf: Leaf, dim: int) -> bool:
    """Whether neurons are switched off along a dimension of a variable."""
    switches = leaf.weight is None or leaf.weight.switches
    return switches and leaf.roles[dim] == "in" and leaf.axes[dim] is not None


def _require_shrink(mutation: Mutation) -> None:
    require_mutation(mutation)
    plan, before = mutation.plan, mutation.before
    grown = next((name for name, axis in plan.changed.items() if axis.new.size), None)
    if grown is not None or plan.created or plan.removed or plan.moved or plan.renamed or _windows(before, plan):
        what = f"{grown!r} has new neurons" if grown else "the structure changed"
        raise StructureError(f"Soft masks are for changes that only drop neurons, but {what}. Use the new variables.")
    inputs = next((v.name for v in before.inputs if v.name in plan.changed), None)
    if inputs is not None:
        raise StructureError(f"Soft masks keep the inputs of the graph, but {inputs!r} shrinks. Leave it as it is.")
    if mutation.incomparable:
        raise StructureError(
            "Soft masks switch off neurons of the variables before, but those after are others: "
            f"{mutation.incomparable}."
        )
    if coupled := before.ties.changed_coupled(plan.changed):
        name, reason = next(iter(coupled.items()))
        leave = ", ".join(f"{each!r}: 0" for each in coupled)
        raise StructureError(
            f"{name!r} loses neurons and is coupled: {reason}. A neuron of it that is zero is not the same as one that "
            f"is not there. Drop them for good, or leave what is coupled as it is: request={{{leave}}}."
        )


def _windows(before: Graph, plan: Plan) -> bool:
    return any(plan.leaves.get(path) != leaf.axes for path, leaf in before.ties.leaves.items())


@dataclass(frozen=True, eq=False)
class Soft:
    """A network some of whose neurons are masked; its graph and the shapes of its variables never change.

    Attributes:
      graph: the whole network.
      masks: the masks for `masked`; they have the same shapes whatever is dropped.
      plan: what is dropped so far; None: nothing.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("hidden", nn.Dense(4), x)))
    >>> variables = graph.init(jax.random.key(0), jax.numpy.ones((1, 3)))
    >>> soft = nas.Soft.whole(graph, variables)
    >>> soft = soft.after(nas.delta_nout(graph, variables, {"hidden": -1}), variables)
    >>> int(soft.masks["params"]["out"]["kernel"].sum()), soft.harden(variables).graph.nout("hidden")
    (3, 3)
    """

    graph: Graph
    masks: Variables
    plan: Plan | None = None

    @classmethod
    def whole(cls, graph: Graph, variables: Variables) -> Soft:
        """A network of which nothing is masked; see `Soft`.

        Args:
          graph: the whole network.
          variables: its variables, or their shapes.

        Returns:
          Masks of ones, without a plan.

        Raises:
          GraphError: if ``graph`` is no graph.
          VariablesError: if the variables are not those of the graph.
        """
        check_network(graph, variables)
        return cls(graph, masks_of(graph, None, variables))

    def harden(self, variables: Variables) -> Mutation:
        """Drop what is masked: the small network, which computes the same; see `Soft`.

        Args:
          variables: the variables of the whole network, as trained.

        Returns:
          A `Mutation`; it carries optimizer state along.

        Raises:
          VariablesError: if the variables are not those of the whole network.
        """
        ties = self.graph.ties
        check_variables(ties.shapes, variables)
        small = carry_out(self.graph, variables, (self.plan or Plan.identity(ties)).axes, Options())
        return replace(small, variables=handed_out(small.variables, variables))

    def after(self, mutation: Mutation, variables: Variables) -> Soft:
        """Mask what a further shrink of the hardened network drops; see `Soft`.

        Args:
          mutation: a change of what `harden` returned, or of the whole network if nothing is masked yet.
          variables: the variables of the whole network.

        Returns:
          The masks of all that was dropped so far and of what the mutation drops.

        Raises:
          StructureError: as `soft_masks`.
          PlanError: if no mutation is given, or it is a change of another network.
          VariablesError: if the variables are not those of the whole network.
        """
        _require_shrink(mutation)
        check_variables(self.graph.ties.shapes, variables)
        if self.plan is None and mutation.before != self.graph:
            raise PlanError("The mutation is of another network than these masks. Mutate what soft.harden returns.")
        plan = mutation.plan @ self.plan if self.plan else mutation.plan
        whole = carry_out(self.graph, variables, {axis: plan.axes[axis] for axis in self.graph.ties.axes}, Options())
        return Soft(self.graph, soft_masks(whole), whole.plan)
