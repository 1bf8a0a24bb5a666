"""A list of networks as few populations."""

from __future__ import annotations

from collections.abc import Sequence

from naivenas_jax.checks import as_count, as_number, shown
from naivenas_jax.errors import RequestError, StructureError
from naivenas_jax.population.members import Member, ancestor_of, as_pair, listed, placed_members
from naivenas_jax.population.population import Population
from naivenas_jax.transfer.variables import parameter_count


def populations(
    members: Sequence[Member],
    ratio: float = 4.0,
    *,
    ladder: Sequence[int] | None = None,
    count: int | None = None,
) -> list[tuple[Population, tuple[int, ...]]]:
    """Sort networks into few populations: those of one structure and about one size together.

    A member is computed in the common shape of its population, so one that is much smaller than the others costs as
    much as they do.

    Args:
      members: mutations, or pairs of a graph and its variables, as for `Population.of`. Mutations of one network that
        differ in widths alone keep its places for their neurons.
      ratio: how many times as many parameters as the smallest member of a population its largest may have.
      ladder: as for `Population.of`: sizes of the common shape, out of few, so that later members meet the same shapes.
      count: how many members each population has: it is filled up with its first one again. None: as many as there are.

    Returns:
      Pairs of a population and the numbers of its members in ``members``, in order. Where it was filled up, these are
      fewer than it has members.

    Raises:
      PlanError: if a member is neither a mutation nor a pair.
      RequestError: if ``ratio`` is no number of at least 1, ``ladder`` no ladder, or ``count`` no whole number.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("hidden", nn.Dense(64), x)))
    >>> variables = graph.init(jax.random.key(0), jax.numpy.ones((1, 3)))
    >>> members = [nas.delta_nout(graph, variables, {"hidden": nas.to(n)}) for n in (60, 4, 50)]
    >>> [(len(population), numbers) for population, numbers in nas.populations(members)]
    [(2, (0, 2)), (1, (1,))]
    """
    largest, many = as_number(ratio), None if count is None else as_count(count)
    if largest is None or not largest >= 1:
        raise RequestError(f"ratio= must be a number of at least 1, found {ratio!r:.80}.")
    if count is not None and many is None:
        raise RequestError(f"count= is a number of members of at least 1, or None; found {shown(count)}.")
    members = listed(members)
    groups: list[list[int]] = []
    for number in range(len(members)):
        home = next((group for group in groups if _alike([members[group[0]], members[number]])), None)
        if home is None:
            groups.append([number])
        else:
            home.append(number)
    classes = [own for group in groups for own in _size_classes(group, members, largest)]
    parts = [own[i : i + (many or len(own))] for own in sorted(classes) for i in range(0, len(own), many or len(own))]
    filled = [[*own, *([own[0]] * ((many or 0) - len(own)))] for own in parts]
    of = (Population.of([members[i] for i in numbers], ladder=ladder) for numbers in filled)
    return list(zip(of, map(tuple, parts), strict=True))


def _alike(members: Sequence[Member]) -> bool:
    """Whether members have one structure."""
    if ancestor_of(members) is not None:
        return True
    pairs = [as_pair(member) for member in members]
    try:
        placed_members(pairs)
    except StructureError:
        return False
    return True


def _size_classes(group: Sequence[int], members: Sequence[Member], ratio: float) -> list[list[int]]:
    """The members of one structure, such that none of a class is ``ratio`` times as large as another one."""
    counts = {number: _parameters(members[number]) for number in group}
    classes: list[list[int]] = []
    for number in sorted(group, key=lambda each: -counts[each]):
        if classes and counts[classes[-1][0]] <= ratio * counts[number]:
            classes[-1].append(number)
        else:
            classes.append([number])
    return [sorted(own) for own in classes]


def _parameters(member: Member) -> int:
    graph, variables = as_pair(member)
    return parameter_count(graph.ties, variables)
