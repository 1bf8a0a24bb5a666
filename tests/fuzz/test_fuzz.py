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


FOUND = {
    "a batch normalisation goes, and with it the statistics": Recipe(3933, tuple(range(6)), (10, 20, 24, 28)),
    "the original overflows": Recipe(3363, tuple(range(8)), (4, 6)),
    "a batch normalisation comes into a loop": Recipe(4492, (1, 3, 4, 5), (4, 9)),
}


@pytest.mark.parametrize("recipe", FOUND.values(), ids=FOUND)
def test_chain_that_broke_a_promise(recipe):
    _, find = run(recipe)
    if find is not None:
        raise find.error


@pytest.mark.parametrize("fault", FAULTS)
def test_solver_fails(fault):
    """A fault of the solver ends in a SolverError, or in a result that is right all the same."""
    survives(fault, seed=3)
