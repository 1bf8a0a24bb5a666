"""Networks of a search, trained and evaluated population by population, and the results in their own order."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

from naivenas_jax.checks import as_items, require_function, require_progress, shown
from naivenas_jax.errors import RequestError, VariablesError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.population.members import Member, as_pair, listed
from naivenas_jax.population.population import Population
from naivenas_jax.population.sorting import populations
from naivenas_jax.population.stacked import on_host, row_of
from naivenas_jax.progress import tracked
from naivenas_jax.typing import PyTree, Variables


class TrainedMember(NamedTuple):
    """A network after `train_members`.

    Attributes:
      graph: the network.
      variables: its variables, as trained.
      state: its own of what lies beside them, such as the state of an optimizer; None if there is none.
      result: what else was returned for it.

    >>> import jax.numpy as jnp, flax.linen as nn, naivenas_jax as nas
    >>> graph = nas.Graph(x := nas.input_vertex("x", 3), nas.layer("out", nn.Dense(1), x))
    >>> variables = graph.init(jax.random.key(0), jnp.ones((1, 3)))
    >>> (each,) = nas.train_members(lambda members, _: (members.variables, None, jnp.ones(1)), [(graph, variables)])
    >>> each.result, each.variables["params"]["out"]["kernel"].shape
    (array(1., dtype=float32), (3, 1))
    """

    graph: Graph
    variables: Variables
    state: PyTree
    result: PyTree


#: Calls a function with the items of iterables side by side, as the builtin ``map`` does.
MapLike: TypeAlias = Callable[..., Iterable[Any]]


def train_members(
    train: Callable[[Population, PyTree], tuple[PyTree, PyTree, PyTree]],
    members: Sequence[Member],
    states: Sequence[PyTree] | None = None,
    *,
    ratio: float = 4.0,
    ladder: Sequence[int] | None = None,
    count: int | None = None,
    map: MapLike = map,
    progress: bool | None = None,
) -> list[TrainedMember]:
    """Train networks, those of one structure as one program.

    They are sorted by `populations`, aligned by position; what is returned for each population is taken apart again.

    Args:
      train: from a population, and the state of all its members or None, to three trees, each with a leading member
        dimension: the variables after training (all collections or some, the others stay), the state (None: there is
        none), and whatever else is to be known of each member, such as losses. What it calls should be jitted.
      members: mutations, or pairs of a graph and its variables.
      states: for each member what lies beside its variables in its own shape, such as the state of an optimizer that
        `Mutation.carry` has brought along.
      ratio: as for `populations`.
      ladder: likewise. With a ladder and a ``count``, members of a structure that was trained before compile nothing.
      count: likewise.
      map: what calls ``train`` for each population, such as the ``map`` of an executor whose workers train at once. It
        gets ``train``, the populations and their states, and returns what ``train`` does for each, in order.
      progress: whether to show how far it is: None: in a terminal and a notebook, after a second; True: elsewhere
        too, in lines on standard error; False: never.

    Returns:
      For each member, in order, a `TrainedMember` with arrays of numpy.

    Raises:
      RequestError: if ``train`` or ``map`` is no function, or returns anything else.
      VariablesError: if there is not one state for each member, or what is returned has no member dimension.
      Others: as `populations` and `Population.stack`.

    >>> import jax, optax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(1), nas.layer("hidden", nn.Dense(8), x)))
    >>> data, tx = jax.random.normal(jax.random.key(0), (32, 3)), optax.adam(1e-2)
    >>> variables = graph.init(jax.random.key(1), data)
    >>> @jax.jit
    ... def step(population, params, state):
    ...     def loss(params):
    ...         squares = (population.apply({"params": params}, data) - data[:, :1]) ** 2
    ...         return squares.sum(), squares.mean((1, 2))
    ...     gradients, losses = jax.grad(loss, has_aux=True)(params)
    ...     updates, state = jax.vmap(tx.update)(gradients, state, params)
    ...     return optax.apply_updates(params, updates), state, losses
    >>> def train(population, state):
    ...     params, state = population.variables["params"], state or population.init(tx)
    ...     for _ in range(3):
    ...         params, state, losses = step(population, params, state)
    ...     return {"params": params}, state, losses
    >>> members = [nas.delta_nout(graph, variables, {"hidden": nas.to(n)}) for n in (4, 20, 6)]
    >>> trained = nas.train_members(train, members)
    >>> [(each.graph.nout("hidden"), each.result.shape, each.state[0].mu["out"]["kernel"].shape) for each in trained]
    [(4, (), (4, 1)), (20, (), (20, 1)), (6, (), (6, 1))]
    >>> wider = nas.delta_nout(*trained[0][:2], {"hidden": +1})
    >>> nas.train_members(train, [wider], [wider.carry(trained[0].state)])[0].state[0].count
    array(6, dtype=int32)
    """
    if map is builtins.map:  # with another one it is what that calls
        require_function(train, "train", "population, state", RequestError)
    require_function(map, "map", "function, populations, states", RequestError)
    require_progress(progress, RequestError)
    pairs = [as_pair(member) for member in listed(members)]
    own = None if states is None else as_items(states)
    if states is not None and (own is None or len(own) != len(pairs)):
        raise VariablesError(f"states= has one tree for each of the {len(pairs)} members; found {shown(states)}.")
    groups = populations(pairs, ratio, ladder=ladder, count=count)
    every = [population for population, _ in groups]
    stacked = [None if own is None else _stacked(population, [own[i] for i in ns]) for population, ns in groups]
    found: dict[int, TrainedMember] = {}
    with tracked(every, "train_members, populations", progress) as begun:
        outcomes = list(_each(groups, map(train, begun if map is builtins.map else every, stacked)))
    for (population, numbers), outcome in outcomes:
        variables, state, results = _three(population, outcome)
        for place, number in enumerate(numbers):
            found[number] = TrainedMember(
                pairs[number][0],
                population.member(place, variables)[1],
                None if state is None else population.carry(state, place),
                row_of(results, place),
            )
    return [found[number] for number in range(len(pairs))]


def evaluate_members(
    evaluate: Callable[[Population], PyTree],
    members: Sequence[Member],
    *,
    ratio: float = 4.0,
    ladder: Sequence[int] | None = None,
    count: int | None = None,
    map: MapLike = map,
    progress: bool | None = None,
) -> list[PyTree]:
    """Evaluate networks, those of one structure as one program; as `train_members`, where nothing is trained.

    Args:
      evaluate: from a population to a tree with a leading member dimension, such as errors.
      members: mutations, or pairs of a graph and its variables.
      ratio: as for `populations`.
      ladder: likewise.
      count: likewise.
      map: as for `train_members`.
      progress: likewise.

    Returns:
      What was returned for each member, in order, as arrays of numpy.

    Raises:
      RequestError: if ``evaluate`` or ``map`` is no function.
      VariablesError: if what it returns has no member dimension.
      Others: as `populations`.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(1), nas.layer("hidden", nn.Dense(8), x)))
    >>> data = jax.random.normal(jax.random.key(0), (32, 3))
    >>> variables = graph.init(jax.random.key(1), data)
    >>> squares = jax.jit(lambda population: (population.apply(population.variables, data) ** 2).mean((1, 2)))
    >>> members = [nas.delta_nout(graph, variables, {"hidden": nas.to(n)}) for n in (4, 20, 8)]
    >>> [found.shape for found in nas.evaluate_members(squares, members)]
    [(), (), ()]
    """
    require_function(evaluate, "evaluate", "population", RequestError)
    require_function(map, "map", "function, populations", RequestError)
    require_progress(progress, RequestError)
    pairs = [as_pair(member) for member in listed(members)]
    groups = populations(pairs, ratio, ladder=ladder, count=count)
    found: dict[int, PyTree] = {}
    every = [population for population, _ in groups]
    with tracked(every, "evaluate_members, populations", progress) as begun:
        outcomes = list(_each(groups, map(evaluate, begun if map is builtins.map else every)))
    for (population, numbers), results in outcomes:
        checked = _of_members(population, results, "evaluate")
        found |= {number: row_of(checked, place) for place, number in enumerate(numbers)}
    return [found[number] for number in range(len(pairs))]


def _each(
    groups: Sequence[tuple[Population, tuple[int, ...]]], outcomes: object
) -> Iterator[tuple[tuple[Population, tuple[int, ...]], Any]]:
    """Populations with what ``map`` has returned for each."""
    found = as_items(outcomes)
    if found is None or len(found) != len(groups):
        raise RequestError(
            f"map= returns what its function returns for each of the {len(groups)} populations, in order; found "
            f"{shown(outcomes)}."
        )
    return zip(groups, found, strict=True)


def _stacked(population: Population, own: list[PyTree]) -> PyTree:
    """The states of all members of a population, which was filled up with its first one."""
    return population.stack([*own, *([own[0]] * (len(population) - len(own)))])


def _three(population: Population, outcome: object) -> tuple[PyTree, PyTree, PyTree]:
    """What ``train`` has returned, on the host: variables of all collections, state, results."""
    if not isinstance(outcome, tuple | list) or len(outcome) != 3:
        raise RequestError(
            "train returns three trees, each with a leading member dimension: variables, state (or None), results; "
            f"found {shown(outcome)}."
        )
    variables, state, results = (_of_members(population, tree, "train") for tree in outcome)
    known = population.variables
    if isinstance(known, Mapping) and isinstance(variables, Mapping) and known.keys() > variables.keys():
        variables = {**on_host({name: known[name] for name in known.keys() - variables.keys()}), **variables}
    return variables, state, results


def _of_members(population: Population, tree: PyTree, name: str) -> PyTree:
    """A tree in the memory of the host, each of whose arrays has a leading member dimension."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if np.shape(leaf)[:1] != (len(population),):
            where = jax.tree_util.keystr(path) or "its root"
            raise VariablesError(
                f"{name} returns arrays with a leading dimension of the {len(population)} members; found "
                f"{f'shape {np.shape(leaf)}' if hasattr(leaf, 'shape') else shown(leaf)} at {where}."
            )
    return on_host(tree)
