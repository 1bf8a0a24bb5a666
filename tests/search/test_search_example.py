"""The search of examples/search.py: it goes on where it was, and what it finds is what it says."""

import importlib
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

import naivenas_jax as nas

pytest.importorskip("pymoo")
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def example():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        yield importlib.import_module("search")


@pytest.fixture(scope="module")
def settings(example):
    return example.Settings(
        generations=2, structures=1, members=3, survivors=4, epochs=1, objectives=("error", "parameters")
    )


@pytest.fixture(scope="module")
def whole(example, settings):
    return list(example.search(settings))


def same(one, other):
    """Whether two states of a search have the same networks in the same order."""
    for a, b in zip((*one.seen, *one.left), (*other.seen, *other.left), strict=True):
        assert (a.graph, a.structure, a.goals) == (b.graph, b.structure, b.goals)
        jax.tree.map(np.testing.assert_array_equal, a.variables, b.variables)


def test_a_search_goes_on_from_what_was_stored(example, settings, whole, tmp_path):
    path = tmp_path / "new" / "search.pickle"
    assert example.stored(path, settings) is None
    half = replace(settings, generations=1)
    for state in example.search(half):
        example.store(path, half, state)
    after = list(example.search(settings, state=example.stored(path, settings)))
    assert [state.generation for state in after] == [2]
    same(after[-1], whole[-1])


def test_another_search_is_not_mixed_with_what_was_stored(example, settings, whole, tmp_path):
    path = tmp_path / "search.pickle"
    example.store(path, settings, whole[0])
    with pytest.raises(SystemExit, match="has another search"):
        example.stored(path, replace(settings, seed=1))


def test_goals_are_those_of_the_networks(example, whole):
    _, images, _, labels = example.digits()
    for candidate in whole[-1].seen:
        wrong = candidate.graph.apply(candidate.variables, images).argmax(-1) != labels
        assert candidate.goals[0] == pytest.approx(float(wrong.mean()), abs=0.002)  # one image of 540
        assert candidate.goals[1] == sum(leaf.size for leaf in jax.tree.leaves(candidate.variables))


def test_what_is_left_is_dominated_by_nothing_that_was_seen_unless_all_of_the_front_is_left(whole):
    def dominates(a, b):
        return a != b and all(x <= y for x, y in zip(a, b, strict=True))

    seen = {candidate.goals for candidate in whole[-1].seen}
    front = {goals for goals in seen if not any(dominates(other, goals) for other in seen)}
    left = {candidate.goals for candidate in whole[-1].left}
    assert left <= front or front <= left


def test_each_population_is_compiled_once(example, whole):
    population = nas.Population.of([each[:2] for each in whole[0].seen])
    with nas.count_programs() as programs:
        list(example.in_process([population], 2))
    assert programs.names.count("epoch") <= 1


def test_a_picture_is_drawn(example, settings, whole, tmp_path):
    example.draw(whole[-1].seen, whole[-1].left, settings.objectives, tmp_path / "search.svg")
    text = (tmp_path / "search.svg").read_text()
    assert text.startswith("<?xml")
    assert "</svg>" in text
