"""Populations of random networks: width mutants of one, hand-written or imported, compute what each does by itself."""

import random

import jax
import numpy as np
import pytest
from chain import GRAMMARS
from promises import inputs_after

import naivenas_jax as nas


def mutants(subject, rng):
    """Up to three mutations to other widths inside; those that are refused are left out."""
    graph = subject.graph
    ends = {graph.ties.axes.get(vertex.name) for vertex in (*graph.inputs, *graph.outputs)}
    inside = [name for name in graph.handles() if graph.ties.axes[name] not in ends]
    for _ in range(8 if inside else 0):
        request = {name: nas.relaxed(rng.choice([-2, -1, 1, 2])) for name in rng.sample(inside, min(2, len(inside)))}
        try:
            yield nas.delta_nout(graph, jax.tree.map(np.asarray, subject.variables), request)
        except nas.NaiveNASError:
            continue


@pytest.mark.parametrize("seed", range(12))
def test_members_compute_what_they_do_by_themselves(seed):
    kind, rng = list(GRAMMARS)[seed % len(GRAMMARS)], random.Random(seed)
    subject = GRAMMARS[kind](seed, tuple(range(rng.randint(2, 5))))
    members = list(mutants(subject, rng))[:3]
    if not members or subject.draws:
        pytest.skip("nothing inside can be resized, or numbers are drawn in the common shape")
    population = nas.Population.of(members)
    with jax.default_matmul_precision("highest"):
        together = jax.jit(lambda p: p.apply(p.variables, *subject.join(subject.inputs), chunk=1))(population)
        for number, (graph, variables) in enumerate(members):
            own_graph, own = population.member(number)
            assert own_graph == graph
            jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves(own), jax.tree.leaves(variables))
            inputs = subject.join(inputs_after(members[number], subject.inputs))
            wanted = jax.jit(lambda v, g=graph, xs=inputs: g.apply(v, *xs))(variables)
            for found, right in zip(jax.tree.leaves(together), jax.tree.leaves(wanted), strict=True):
                scale = max(1.0, float(np.abs(right).max(initial=0)))
                np.testing.assert_allclose(found[number], right, atol=1e-4 * scale)
