"""One network of two."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, TypeAlias, get_args

import jax

from naivenas_jax.checks import is_one_of, shown
from naivenas_jax.errors import RequestError, StructureError
from naivenas_jax.mutate.around.fit_check import check_fit
from naivenas_jax.mutate.around.steps import with_coupled_changes
from naivenas_jax.mutate.request.options import Inputs
from naivenas_jax.mutate.result.mutation import Mutation
from naivenas_jax.population.members import as_pair
from naivenas_jax.search.draws import Draws
from naivenas_jax.search.exchange import equal, exchange
from naivenas_jax.search.parents import Parent, parents, unchanged
from naivenas_jax.search.segments.drawn_swap import drawn_swap
from naivenas_jax.transfer.new_neurons.entries import generator, key_for
from naivenas_jax.transfer.variables import flat

#: What a crossover exchanges.
Kind: TypeAlias = Literal["groups", "neurons", "segments"]
KINDS: tuple[Kind, ...] = get_args(Kind)


def crossover(
    first: Parent,
    second: Parent,
    key: jax.Array,
    *,
    kind: Kind = "groups",
    deviation: float = 0.25,
    inputs: Inputs = None,
) -> Mutation:
    """A child of two networks, as a mutation of the first one.

    Args:
      first: a mutation, a pair of a mutation and its trained variables, or a pair of a graph and its variables.
      second: likewise. Neurons are the same in both where they come from the same neuron of a network that both are
        mutations of, or one of the other; else neurons are aligned by position.
      key: a PRNG key, which decides what comes from which parent. The same key gives the same child.
      kind: "groups": every group of tied neurons is as wide as it is in one parent, with the weights that make it
        there.
        "neurons": as "groups", but each neuron has the weights that make it in one parent or the other, and where only
        one parent has a neuron, chance says whether the child has it. Factors of a product (heads) and vocabularies are
        taken as a whole nevertheless.
        "segments": networks of any structure. A part of the second takes the place of a part of the first, with its
        neurons and weights: vertices that read one vertex outside, and of which one is read outside. Neurons at both
        ends are aligned by position; where there are more or fewer, the weights that read them follow, and what is tied
        to them: the most useful stay, as in every change of width. Vertices keep their names, with a number where one
        is taken.
      deviation: of "segments", how far apart the cuts in both networks may be: positions in the order of the vertices,
        from 0 for the first to 1 for the last.
      inputs: of "segments", arrays or shapes for the first network, on which the child is tried: for graphs that do not
        know the shapes of their inputs, and convolve.

    Returns:
      A `Mutation` of the first network. Every entry of its variables is an entry of a parent, bit for bit; the weight
      between two neurons that no parent has both of counts for nothing. In the plan, neurons with weights of the second
      network are new. So the state of an optimizer of the first goes on for those of the first, and starts again for
      the others, unless it is given with that of the second: ``mutation.carry(state, second=its_state)``. Undoing gives
      the first network back. Inputs and outputs have the sizes that they have in the first.

    Raises:
      StructureError: if the networks differ in more than widths, but for "segments".
      NoMutationError: if no segments can be exchanged.
      PlanError: if one of them is no network.
      RequestError: if there is no such ``kind``, or ``deviation`` is no share.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("hidden", nn.Dense(8), x)))
    >>> variables = graph.init(jax.random.key(0), jax.numpy.ones((1, 3)))
    >>> small, large = (nas.delta_nout(graph, variables, {"hidden": n}) for n in (-3, 2))
    >>> child, child_variables = nas.crossover(small, large, jax.random.key(1))
    >>> child.nout("hidden") in (5, 10), child.apply(child_variables, jax.numpy.ones((4, 3))).shape
    (True, (4, 2))
    """
    if not is_one_of(kind, KINDS):
        raise RequestError(f"kind= must be one of {', '.join(map(repr, KINDS))}; found {shown(kind)}.")
    one, two = parents(first, second)
    if kind == "segments":
        mutation = drawn_swap(as_pair(one), as_pair(two), Draws(key), deviation, inputs)
        if _is_same(mutation):
            return replace(unchanged(mutation.graph, as_pair(one)[1]), kind=mutation.kind, notes=mutation.notes)
    else:
        rng = generator(key_for(key, ("crossover",)))
        try:
            mutation = exchange(one, two, rng, single=kind == "neurons")
        except StructureError as error:
            raise StructureError(f"These two networks have no crossover of {kind}: {error}") from error
    finished = with_coupled_changes(mutation)
    check_fit(finished)
    return finished


def _is_same(child: Mutation) -> bool:
    """Whether a child is its first parent."""
    one, two = flat(child.variables_before), flat(child.variables)
    return child.graph == child.before and all(equal(array, two[path]) for path, array in one.items())
