"""Networks that differ in widths, evaluated and trained as one program."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar, dataclass_transform

import chex
import jax
import numpy as np
import optax
from flax.core.scope import CollectionFilter
from flax.typing import PRNGKey, RNGSequences

from naivenas_jax.align.axis_plan import AxisPlan, Positions
from naivenas_jax.align.plan import Plan
from naivenas_jax.checks import as_items, as_whole, require_ladder, shown
from naivenas_jax.errors import RequestError, StructureError, VariablesError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.map_ops import with_axes
from naivenas_jax.paths import is_unnamed, subscripts
from naivenas_jax.population.common_shape import free_runs, in_common_shape, inverse, moved, plan_to
from naivenas_jax.population.masked_network import MaskedNetwork
from naivenas_jax.population.members import Member, as_member, listed, placed_in, placed_members
from naivenas_jax.population.stacked import mask_of, padded, row_of, row_shapes, stacked, with_row
from naivenas_jax.sizes.ties import Ties
from naivenas_jax.transfer.carrying.carry import carry
from naivenas_jax.transfer.take import where_they_are
from naivenas_jax.transfer.variables import check_network, flat, trained_tree
from naivenas_jax.typing import PyTree, Variables
from naivenas_jax.views.viewable import Viewable

ClassT = TypeVar("ClassT", bound=type)


@dataclass_transform(frozen_default=True, kw_only_default=True)
def _chex_dataclass(cls: ClassT) -> ClassT:
    """A frozen dataclass of chex that keeps a method ``replace`` of its own; chex puts one there that sets fields."""
    own: object = cls.replace  # type: ignore[attr-defined]  # Python has no bound for classes with a method
    made: ClassT = chex.dataclass(cls, frozen=True, mappable_dataclass=False)
    made.replace = own  # type: ignore[attr-defined]
    return made


@_chex_dataclass
class Population(Viewable):
    """Networks of one structure and different widths, in one shape.

    Every member lies in the common shape of all. Masks say which neurons it has, so that one program evaluates all
    members, whoever they are: a pytree whose leaves have a leading member dimension, and an argument of jitted
    functions.

    Attributes:
      graph: the network in the common shape.
      variables: those of all members, with a leading member dimension.
      masks: for each run of neurons in which members differ, by the name of an axis that it lies on, shape (members,
        neurons), bool: which of them a member has.
      places: likewise, shape (members, neurons), int: where the neurons of a member lie, in its own order.

    >>> import jax, optax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("hidden", nn.Dense(8), x)))
    >>> variables = graph.init(jax.random.key(0), jax.numpy.ones((1, 3)))
    >>> sizes = [nas.delta_nout(graph, variables, {"hidden": change}) for change in (-5, -1, 2)]
    >>> population = nas.Population.of(sizes)
    >>> len(population), population.graph.nout("hidden"), population.masks["hidden"].sum(1).tolist()
    (3, 10, [3, 7, 10])
    >>> population.apply(population.variables, jax.numpy.ones((5, 3))).shape
    (3, 5, 2)
    >>> population.member(1)[0].nout("hidden")
    7
    >>> population.replace(1, nas.delta_nout(graph, variables, {"hidden": nas.to(5)})).member(1)[0].nout("hidden")
    5
    >>> state = population.init(optax.adam(1e-3))
    >>> own = population.carry(state, 1)
    >>> own[0].mu["hidden"]["bias"].shape, population.put(state, 1, own)[0].mu["hidden"]["bias"].shape
    ((7,), (3, 10))
    >>> population.stack([population.carry(state, number) for number in range(3)])[0].mu["hidden"]["bias"].shape
    (3, 10)
    """

    graph: Graph
    variables: PyTree
    masks: Mapping[str, jax.Array]
    places: Mapping[str, jax.Array]

    @classmethod
    def of(cls, members: Sequence[Member], *, ladder: Sequence[int] | None = None) -> Population:
        """A population; see `Population`.

        Args:
          members: mutations of one network, whose neurons keep their places, or pairs of a graph and its variables,
            whose neurons are aligned by position.
          ladder: sizes in rising order, such as ``nas.ladder(8, 512)``. The common shape has the next of these sizes,
            and every size of a layer inside the network can differ, so that other members of this structure give the
            same program. None: the largest sizes of the members, and what is equal in all is one size.

        Returns:
          The members, in order.

        Raises:
          PlanError: if there are none, or one is neither a mutation nor a pair.
          RequestError: if ``ladder`` is none.
          StructureError: if their structures differ.
        """
        common, placed = placed_members(
            listed(members), () if ladder is None else require_ladder("ladder=", ladder, RequestError)
        )
        ties, free = common.ties, free_runs(common) if ladder is not None else ()
        full = {r: np.arange(n) for r, n in enumerate(ties.run_sizes)}
        own = [{**full, **member.places} for member in placed]
        names = run_names(
            ties, [r for r, n in enumerate(ties.run_sizes) if r in free or any(len(m[r]) < n for m in own)]
        )
        masks = {name: np.stack([mask_of(m[r], ties.run_sizes[r]) for m in own]) for name, r in names.items()}
        places = {name: np.stack([padded(m[r], ties.run_sizes[r]) for m in own]) for name, r in names.items()}
        every = stacked([in_common_shape(ties, member) for member in placed])
        return cls(graph=common, variables=every, masks=jax.device_put(masks), places=jax.device_put(places))

    def __repr__(self) -> str:
        sizes = ", ".join(
            f"{name}: up to {mask.shape[-1]}" for name, mask in self.masks.items() if not is_unnamed(name)
        )
        return f"Population({len(self)} members; {sizes or 'all of the same sizes'})"

    def __len__(self) -> int:
        return int(jax.tree.leaves(self.variables)[0].shape[0])

    def apply(
        self,
        variables: Variables,
        *inputs: PyTree,
        mutable: CollectionFilter = False,
        rngs: PRNGKey | RNGSequences | None = None,
        chunk: int | None = None,
        **kwargs: object,
    ) -> PyTree:
        """What every member computes; see `Population`.

        Args:
          variables: of all members, such as ``population.variables``.
          *inputs: arrays for the graph, the same for all members.
          mutable: collections that may be updated, as for `Graph.apply`.
          rngs: keys by stream, as for `Graph.apply`, the same for all members.
          chunk: how many members are computed side by side. None: one after the other where the network has
            convolutions and the machine no accelerator, since a CPU takes longer for a batch of convolutions than for
            each of them; else all.
          **kwargs: as for `Graph.apply`.

        Returns:
          What `Graph.apply` returns, with a leading member dimension. Of an output in which members differ, neurons
          that a member does not have are zero.

        Raises:
          StructureError: if an axis in which members differ cannot be masked; names it.
          Others: as `Graph.apply`.
        """
        rows = None if chunk is None else as_whole(chunk)
        if chunk is not None and (rows is None or rows < 1):
            raise RequestError(f"chunk= is a number of members of at least 1, or None for all; found {shown(chunk)}.")
        self._check_tree(variables, "variables")
        shapes = row_shapes(variables)
        check_network(self.graph, shapes)
        keys = dict(rngs) if isinstance(rngs, Mapping) else {} if rngs is None else {"params": rngs}
        network = MaskedNetwork.of(self.graph, shapes, inputs, mutable=mutable, rngs=keys, kwargs=kwargs)
        runs, on_cpu = run_names(self.graph.ties), jax.default_backend() == "cpu"
        together = rows >= len(self) if rows is not None else not (network.convolves and on_cpu)

        def one(member: tuple[Variables, Mapping[str, jax.Array]]) -> PyTree:
            own, masks = member
            return network(own, {runs[name]: mask for name, mask in masks.items()}, looped=on_cpu and not together)

        if together:
            return jax.vmap(one)((variables, self.masks))
        return jax.lax.map(one, (variables, self.masks), batch_size=rows)

    def init(self, tx: optax.GradientTransformation) -> optax.OptState:
        """The first state of an optimizer for every member; see `Population`.

        Use it with ``jax.vmap(tx.update)(gradients, state, params)``, so that what an optimizer computes from all
        parameters (a norm that is clipped) is of each member alone.

        Args:
          tx: an optax optimizer of the parameters of one member.

        Returns:
          A state with a leading member dimension.

        Raises:
          RequestError: if ``tx`` is no optimizer.
        """
        if not isinstance(tx, optax.GradientTransformation):
            raise RequestError(f"tx= takes an optax optimizer, such as optax.adam(1e-3); found {shown(tx)}.")
        params = trained_tree(self.graph.ties, self.variables)
        return where_they_are(_first_states(tx.init, params), params)

    def member(self, number: int, variables: PyTree = None) -> tuple[Graph, Variables]:
        """One member as a network of its own; see `Population`.

        Args:
          number: which.
          variables: of all members, as trained; ``population.variables`` where not given.

        Returns:
          Its graph and variables, without neurons that it does not have, bit for bit.

        Raises:
          RequestError: if there is no such member.
          VariablesError: if the variables are not those of all members.
        """
        every = self.variables if variables is None else variables
        self._check_variables(every)
        own = row_of(every, self._number(number))
        axes = self._axes(number)
        return with_axes(self.graph, axes), moved(own, self.graph.ties, axes)

    def carry(self, tree: PyTree, number: int) -> PyTree:
        """What belongs to one member of a tree of all of them, in the shape of the member; see `Population`.

        Args:
          tree: optimizer state, averages, or whatever is shaped like the variables, with a leading member dimension.
          number: which member.

        Returns:
          The tree of that member alone, for the network that `member` returns.

        Raises:
          CarryError: as `Mutation.carry`.
        """
        self._number(number)
        before = row_shapes(self.variables)
        self._check_tree(tree, "tree")
        axes = self._axes(number)
        return carry(self._plan(axes), row_of(tree, number), before, moved(before, self.graph.ties, axes))[0]

    def put(self, tree: PyTree, number: int, own: PyTree) -> PyTree:
        """The inverse of `carry`: a tree of all members, with that of one member in its place; see `Population`.

        Args:
          tree: of all members.
          number: which member is put in.
          own: the tree of that member, in its own shape.

        Returns:
          A new tree. Entries of neurons that the member does not have are zero.

        Raises:
          CarryError: as `Mutation.carry`.
          VariablesError: if ``own`` is no such tree of one member.
        """
        self._check_tree(tree, "tree")
        widened = self._widened(own, self._number(number))
        wanted, found = jax.tree.map(lambda array: array.shape[1:], tree), jax.tree.map(np.shape, widened)
        if wanted != found:
            raise VariablesError(
                f"own= is what `carry` gives of one member of this tree; found {shown(own)}, which has the shapes "
                f"{shown(found)} in the common shape, where the tree has {shown(wanted)}."
            )
        return with_row(tree, number, widened)

    def stack(self, trees: Sequence[PyTree]) -> PyTree:
        """A tree of all members from one of each, such as states of an optimizer; see `Population`.

        Args:
          trees: for each member a tree in its own shape, as `carry` gives it.

        Returns:
          A tree with a leading member dimension. Entries of neurons that a member does not have are zero.

        Raises:
          CarryError: as `Mutation.carry`.
          VariablesError: if they are not one for each member, or not alike.
        """
        items = as_items(trees)
        if items is None or len(items) != len(self):
            raise VariablesError(f"trees= takes one tree for each of the {len(self)} members; found {shown(trees)}.")
        widened = [self._widened(own, number) for number, own in enumerate(items)]
        shapes = [jax.tree.map(np.shape, each) for each in widened]
        for number, each in enumerate(shapes):
            if each != shapes[0]:
                raise VariablesError(
                    f"trees= has one tree for each member, all alike; that of member {number} has the shapes "
                    f"{shown(each)} in the common shape, and that of member 0 {shown(shapes[0])}."
                )
        return stacked(widened)

    def replace(self, number: int, change: Member) -> Population:
        """Another network in the place of one member, in the same shape, so that nothing is compiled; see `Population`.

        Args:
          number: which member goes.
          change: a mutation of this member, of another one or of the ancestor; its neurons keep their places, and new
            ones get places that are free. Or a pair of a graph and its variables, whose neurons come first.

        Returns:
          A population of the same shapes.

        Raises:
          StructureError: if the network has another structure, or does not fit in: make a new population of it.
          RequestError: if there is no such member.
        """
        self._number(number)
        ties, names = self.graph.ties, {run: name for name, run in run_names(self.graph.ties).items()}
        others = [number, *(i for i in range(len(self)) if i != number)]
        placed = placed_in(self.graph, as_member(change, number), map(self._places, others))
        for run, places in placed.places.items():
            if names[run] not in self.masks and len(places) < ties.run_sizes[run]:
                raise StructureError(
                    f"{names[run]!r} has {ties.run_sizes[run]} neurons in all members of this population, and "
                    f"{len(places)} in the new one. Make a new population: nas.Population.of([...])."
                )
        own = {name: placed.places[run] for run, name in names.items() if name in self.masks}
        sizes = {name: self.masks[name].shape[1] for name in own}
        masks = {name: mask_of(places, sizes[name]) for name, places in own.items()}
        free = {name: padded(places, sizes[name]) for name, places in own.items()}
        return Population(
            graph=self.graph,
            variables=with_row(self.variables, number, in_common_shape(ties, placed)),
            masks=with_row(self.masks, number, masks),
            places=with_row(self.places, number, free),
        )

    def _check_tree(self, tree: PyTree, name: str) -> None:
        """Raise unless every leaf of a tree is an array with a leading dimension of members."""
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            numbers = isinstance(leaf, jax.Array) or (isinstance(leaf, np.ndarray) and leaf.dtype.kind in "biufcV")
            if not numbers or leaf.shape[:1] != (len(self),):
                where = jax.tree_util.keystr(path) or "its root"
                found = f"shape {leaf.shape}" if numbers else shown(leaf)
                raise VariablesError(
                    f"{name}= is a tree of arrays with a leading dimension of the {len(self)} members; found {found} "
                    f"at {where}."
                )

    def _check_variables(self, variables: object) -> None:
        """Raise unless they are variables of all members, all of them or some collections."""
        self._check_tree(variables, "variables")
        alike = isinstance(variables, type(self.variables))  # a list, a module of Equinox
        if not alike and (not isinstance(variables, Mapping) or not variables):
            raise VariablesError(
                f"variables= is a dict of collections, such as {{'params': ...}}; found {shown(variables)}."
            )
        known = flat(self.variables)
        for path, array in flat(variables).items():
            if path not in known or np.shape(array) != np.shape(known[path]):
                raise VariablesError(
                    f"variables= has {subscripts(path)} of shape {np.shape(array)}, where this population has "
                    f"{np.shape(known[path]) if path in known else 'no such variable'}."
                )

    def _widened(self, own: PyTree, number: int) -> PyTree:
        """A tree of one member in the common shape."""
        axes, after = self._axes(number), row_of(self.variables, number)
        return carry(self._plan(inverse(axes)), own, moved(after, self.graph.ties, axes), after)[0]

    def _number(self, number: int) -> int:
        found = as_whole(number)
        if found is None or not 0 <= found < len(self):
            raise RequestError(
                f"number= is one of the {len(self)} members, 0 to {len(self) - 1}; found {number!r:.80}."
            )
        return found

    def _axes(self, number: int) -> dict[str, AxisPlan]:
        """From the common shape to a member."""
        return plan_to(self.graph.ties, self._places(number))

    def _plan(self, axes: Mapping[str, AxisPlan]) -> Plan:
        """A change of axes as a plan, which rescales nothing: members are trained with the variables that they have."""
        return Plan(axes, {path: leaf.axes for path, leaf in self.graph.ties.leaves.items()})

    def _places(self, number: int) -> dict[int, Positions]:
        """The places of the neurons of a member, for each run in which members differ."""
        runs = run_names(self.graph.ties)
        counts = {name: int(np.asarray(mask)[number].sum()) for name, mask in self.masks.items()}
        return {runs[name]: np.asarray(each)[number, : counts[name]] for name, each in self.places.items()}


def run_names(ties: Ties, runs: Sequence[int] | None = None) -> dict[str, int]:
    """The runs that are no products, by the name of an axis that consists of it, or else by number."""
    named_first = sorted(ties.axes.items(), key=lambda item: is_unnamed(item[0]))
    own = {row[0]: axis for axis, row in reversed(named_first) if len(row) == 1}
    wanted = range(len(ties.run_sizes)) if runs is None else runs
    return {own.get(run, f"~run{run}"): run for run in wanted if run not in ties.products}


@partial(jax.jit, static_argnums=0)
def _first_states(init: Callable[[PyTree], optax.OptState], params: PyTree) -> optax.OptState:
    """The first state of an optimizer for every member, by one program."""
    return jax.vmap(init)(params)
