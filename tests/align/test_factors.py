"""Which factors of products change, against all sizes counted out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from naivenas_jax.align.align import align
from naivenas_jax.align.problem.factors import choices
from naivenas_jax.align.problem.request import targets
from naivenas_jax.align.problem.restrictions import Restrictions
from naivenas_jax.errors import InfeasibleError
from naivenas_jax.sizes.condition import size
from naivenas_jax.sizes.ties import Ties
from naivenas_jax.sizes.tying import Tying

SIZES = {"g": 4, "c": 3, "o": 3}
PRODUCTS = {"gc": ("g", "c"), "cg": ("c", "g"), "go": ("g", "o")}  # a shuffle, and a layer with as many groups


def shuffle(products: dict[str, tuple[str, ...]] = PRODUCTS, sizes: dict[str, int] = SIZES) -> Ties:
    tying = Tying()
    vectors = {name: tying.new(size) for name, size in sizes.items()}
    vectors |= {name: tying.blocks.product([vectors[f] for f in factors]) for name, factors in products.items()}
    for name, vector in vectors.items():
        tying.called(vector, name)
    return tying.freeze()


def read(ties: Ties, request: dict[str, int]):
    return targets(request, {axis: ties.size(axis) for axis in ties.axes})


def possible(request: dict[str, int], largest: int = 8) -> bool:
    """Whether sizes of the factors meet the request, if of a product one changes, or those that are requested."""
    for found in itertools.product(range(1, largest), repeat=len(SIZES)):
        sizes = dict(zip(SIZES, found, strict=True))
        changed = {name for name in SIZES if sizes[name] != SIZES[name]}
        several = any(len(changed & set(f)) > 1 and not changed & set(f) <= request.keys() for f in PRODUCTS.values())
        sizes |= {name: sizes[a] * sizes[b] for name, (a, b) in PRODUCTS.items()}
        before = {**SIZES, **{name: SIZES[a] * SIZES[b] for name, (a, b) in PRODUCTS.items()}}
        if not several and all(sizes[name] == before[name] + change for name, change in request.items()):
            return True
    return False


REQUESTS = [
    *({name: change} for name in (*SIZES, *PRODUCTS) for change in (-4, -3, -1, 1, 3)),
    *({"g": g, "c": c} for g in (-1, 1) for c in (-1, 1)),
    *({a: x, b: y} for a, b in (("gc", "o"), ("gc", "go"), ("c", "o"), ("go", "c")) for x in (-4, -3) for y in (-1, 4)),
    {"g": -1, "c": -1, "gc": -6},
    {"g": -1, "c": -1, "gc": -5},
    {"g": -2, "c": 1, "o": 2},
]


@pytest.mark.parametrize("request_", REQUESTS, ids=str)
def test_a_request_is_met_if_and_only_if_it_can_be(request_: dict[str, int]) -> None:
    ties = shuffle()
    if any(ties.size(axis) + change < 1 for axis, change in request_.items()):
        return
    wanted = read(ties, request_)
    if not possible(request_):
        with pytest.raises(InfeasibleError):
            align(ties, wanted, {}, Restrictions())
        return
    plans = align(ties, wanted, {}, Restrictions()).axes
    after = {axis: plan.after for axis, plan in plans.items()}
    assert all(after[axis] == ties.size(axis) + change for axis, change in request_.items())
    assert all(after[name] == after[a] * after[b] for name, (a, b) in PRODUCTS.items())


def test_a_shared_factor_changes_everywhere_or_nowhere() -> None:
    ties = shuffle()
    g, c, o = (ties.axes[name][0] for name in SIZES)
    assert [set(choice.resting) for choice in choices(ties, {}, [])] == [{c, o}, {g}]
    assert [set(choice.resting) for choice in choices(ties, {}, read(ties, {"g": -1}))] == [{c, o}]
    assert [set(choice.resting) for choice in choices(ties, {g: "fixed"}, [])] == [set()]
    assert [set(choice.resting) for choice in choices(ties, {}, read(ties, {"g": -1, "c": -1}))] == [{o}]


def test_products_apart_are_chosen_apart_while_they_are_few() -> None:
    few = {"a": 2, "b": 2, "c": 2, "d": 2}
    two = shuffle({"ab": ("a", "b"), "cd": ("c", "d")}, few)
    a, b, c, d = (two.axes[name][0] for name in few)
    assert [set(choice.resting) for choice in choices(two, {}, [])] == [{b, d}, {b, c}, {a, d}, {a, c}]
    names = [f"{letter}{i}" for i in range(8) for letter in "xy"]
    many = shuffle({f"p{i}": (f"x{i}", f"y{i}") for i in range(8)}, dict.fromkeys(names, 2))
    first, second = (choice.resting.keys() for choice in choices(many, {}, []))
    assert first == {many.axes[name][0] for name in names if name[0] == "y"}
    assert second == {many.axes[name][0] for name in names if name[0] == "x"}


def test_the_members_that_stay_are_the_most_useful() -> None:
    """Of two factors that both change, each keeps the members whose combinations have the most utility together."""
    ties = shuffle()
    utility = {"gc": np.array([[1, 9, 2], [8, 9, 7], [1, 5, 1], [3, 6, 3]]).ravel()}
    plans = align(ties, read(ties, {"g": -2, "c": -1}), utility, Restrictions()).axes
    assert plans["g"].source.tolist() == [1, 0][::-1]
    assert plans["c"].source.tolist() == [0, 1]
    assert plans["gc"].source.tolist() == [0, 1, 3, 4]
    assert plans["cg"].source.tolist() == [0, 1, 4, 5]


def test_a_refusal_names_what_changes_instead() -> None:
    ties = shuffle()
    with pytest.raises(InfeasibleError, match="a factor of 'gc', of which 'g' changes; several change at once only if"):
        align(ties, read(ties, {"g": -1, "gc": -6}), {}, Restrictions())


def test_new_combinations_of_both_factors_are_counted() -> None:
    ties = shuffle()
    wanted = read(ties, {"g": 1, "c": 1})
    assert align(ties, wanted, {}, Restrictions(insertable={"gc": 8})).axes["gc"].after == 20
    with pytest.raises(InfeasibleError, match="'gc' would get 8 new neurons"):
        align(ties, wanted, {}, Restrictions(insertable={"gc": 7}))


@pytest.mark.parametrize("factor", ["g", "c"])
def test_objectives_decide_between_choices_of_factors_before_utility_does(factor: str) -> None:
    """A small factor costs utility, and only one of the choices lets it be small."""
    ties = shuffle()
    utility = {name: np.arange(1.0, size + 1) for name, size in SIZES.items()}
    plans = align(ties, [], utility, Restrictions(objectives=[size(factor)])).axes
    assert plans[factor].after == 1
