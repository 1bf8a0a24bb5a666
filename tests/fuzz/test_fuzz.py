"""A sample of what ``nox -s fuzz`` runs: chains with fixed seeds, and solvers that fail."""

import pytest
from chain import Recipe, run
from solver_faults import FAULTS, survives

SEEDS = range(9)


@pytest.mark.parametrize("seed", SEEDS)
def test_chain(seed):
    recipe = Recipe.of(seed)
    seen, find = run(recipe)
    if find is not None:
        find.error.add_note(f"{recipe.command}: {find.kind}; see it shortened with nox -s fuzz -- --seed {seed}")
        raise find.error
    assert seen["mutations"] or seen["refused"]


@pytest.mark.parametrize("fault", FAULTS)
def test_solver_fails(fault):
    """A fault of the solver ends in a SolverError, or in a result that is right all the same."""
    survives(fault, seed=3)
