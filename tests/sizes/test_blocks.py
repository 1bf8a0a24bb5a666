"""Ties between ranges of neurons, against a union-find with one element per neuron."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings, strategies as st

from naivenas_jax.sizes.blocks import Blocks
from naivenas_jax.sizes.vector import Vector


class PerElement:
    """The same, one element at a time. Elements are (number of the `new` call, position)."""

    def __init__(self):
        self.parent = {}

    def new(self, number, size):
        elements = [(number, i) for i in range(size)]
        self.parent.update({element: element for element in elements})
        return elements

    def find(self, element):
        while self.parent[element] != element:
            element = self.parent[element]
        return element

    def tie(self, a, b):
        for x, y in zip(a, b, strict=True):
            self.parent[self.find(x)] = self.find(y)


def settled(blocks, vectors):
    """Every vector as class numbers, one per neuron."""
    sizes, rows = blocks.settle(vectors)
    start = [sum(sizes[:run]) for run in range(len(sizes))]
    return [[start[run] + i for run in row for i in range(sizes[run])] for row in rows]


def same_partition(ours, reference):
    """Whether two labellings say the same about which positions are alike."""
    flat = [label for row in ours for label in row]
    wanted = [label for row in reference for label in row]
    assert len(flat) == len(wanted)
    forward, backward = {}, {}
    for a, b in zip(flat, wanted, strict=True):
        assert forward.setdefault(a, b) == b
        assert backward.setdefault(b, a) == a


def derive(rng, pool):
    """A vector made of others: cut, stacked, repeated; the same one as elements."""
    kind = rng.randrange(4)
    vector, elements = rng.choice(pool)
    if kind == 0 and len(vector):
        start = rng.randrange(len(vector))
        stop = rng.randint(start, len(vector))
        return vector.cut(start, stop), elements[start:stop]
    if kind == 1:
        other, others = rng.choice(pool)
        return Vector.concat([vector, other]), elements + others
    if kind == 2:
        return vector.tile(2), elements * 2
    return vector, elements


@given(st.randoms(use_true_random=False))
@settings(max_examples=300)
def test_random_ties(rng):
    blocks, reference = Blocks(), PerElement()
    pool = []
    for number in range(rng.randint(1, 5)):
        size = rng.randint(1, 9)
        pool.append((blocks.new(size), reference.new(number, size)))
    for _ in range(rng.randint(0, 12)):
        made = derive(rng, pool)
        if 0 < len(made[0]) <= 40:
            pool.append(made)
        a, b = derive(rng, pool), derive(rng, pool)
        size = min(len(a[0]), len(b[0]))
        blocks.tie(a[0].cut(0, size), b[0].cut(0, size))
        reference.tie(a[1][:size], b[1][:size])
    vectors = [vector for vector, _ in pool]
    assert [len(vector) for vector in vectors] == [len(elements) for _, elements in pool]
    same_partition(settled(blocks, vectors), [[reference.find(e) for e in elements] for _, elements in pool])


@given(st.integers(1, 30), st.integers(0, 30))
def test_shifted_onto_itself(size, shift):
    """A vector tied to itself ``shift`` further on has period ``shift``."""
    blocks = Blocks()
    vector = blocks.new(size + shift)
    blocks.tie(vector.cut(0, size), vector.cut(shift, size + shift))
    (row,) = settled(blocks, [vector])
    same_partition([row], [[i % shift if shift else i for i in range(size + shift)]])


def test_runs_are_as_long_as_can_be():
    blocks = Blocks()
    a, b = blocks.new(1000), blocks.new(400)
    blocks.tie(a.cut(300, 700), b)
    sizes, rows = blocks.settle([a, b])
    assert sizes == (300, 400, 300)
    assert rows == [(0, 1, 2), (1,)]


def test_settling_twice_changes_nothing():
    blocks = Blocks()
    a, b = blocks.new(5), blocks.new(3)
    blocks.tie(a.cut(1, 4), b)
    assert blocks.settle([a, b]) == blocks.settle([a, b])


def test_lengths_must_agree():
    blocks = Blocks()
    with pytest.raises(AssertionError, match="3 and 2 elements"):
        blocks.tie(blocks.new(3), blocks.new(2))


# -- empty places: where neurons can be inserted but where none are yet ------------------------------------------------


def places(blocks, vectors):
    """For each vector the offsets of its empty runs, and which runs these are."""
    sizes, rows = blocks.settle(vectors)
    found = []
    for row in rows:
        offset, here = 0, []
        for run in row:
            if sizes[run] == 0:
                here.append((offset, run))
            offset += sizes[run]
        found.append(here)
    return found


@pytest.mark.parametrize("at", [0, 2, 5])
def test_a_place_is_carried_over(at):
    blocks = Blocks()
    base, place, other = blocks.new(5), blocks.new(0), blocks.new(5)
    stacked = Vector.concat([base.cut(0, at), place, base.cut(at, 5)])
    blocks.tie(stacked, other)
    first, second, own = places(blocks, [stacked, other, place])
    assert [offset for offset, _ in first] == [at]
    assert first == second
    assert own == [(0, first[0][1])]
    assert not blocks.stuck


def test_a_place_is_carried_over_through_a_chain_of_ties():
    blocks = Blocks()
    a, b, c, place = blocks.new(3), blocks.new(3), blocks.new(3), blocks.new(0)
    blocks.tie(a, b)
    blocks.tie(b, c)
    stacked = Vector.concat([blocks.new(2), place, blocks.new(1)])
    blocks.tie(stacked, a)
    found = places(blocks, [a, b, c, stacked])
    assert found[0] == found[1] == found[2] == found[3]
    assert [offset for offset, _ in found[0]] == [2]


def test_ties_made_after_the_place_carry_it_too():
    blocks = Blocks()
    a, b, place = blocks.new(2), blocks.new(1), blocks.new(0)
    stacked = Vector.concat([a, place, b])
    sums = blocks.new(3)
    blocks.tie(stacked, sums)
    late = blocks.new(3)
    blocks.tie(sums, late)
    found = places(blocks, [stacked, sums, late])
    assert found[0] == found[1] == found[2] != []


def test_two_places_at_one_offset_keep_their_order():
    blocks = Blocks()
    a, first, second, b = blocks.new(2), blocks.new(0), blocks.new(0), blocks.new(2)
    stacked = Vector.concat([a, first, second, b])
    other = blocks.new(4)
    blocks.tie(stacked, other)
    mine, others = places(blocks, [stacked, other])
    assert [offset for offset, _ in mine] == [2, 2]
    assert sorted(others) == sorted(mine)


def test_a_place_inside_what_is_tied_to_itself_is_stuck():
    """x = [a, place] and x = [a]: whatever is inserted would make x longer than itself."""
    blocks = Blocks()
    a, place = blocks.new(3), blocks.new(0)
    blocks.tie(Vector.concat([a, place]), a)
    assert blocks.stuck
    sizes, rows = blocks.settle([place, *blocks.stuck])
    assert set(rows[0]) & {run for row in rows[1:] for run in row}
    assert all(sizes[run] == 0 for run in rows[0])


def test_a_place_shared_by_both_sides_is_not_stuck():
    blocks = Blocks()
    a, b, place = blocks.new(3), blocks.new(3), blocks.new(0)
    blocks.tie(Vector.concat([a, place]), Vector.concat([b, place]))
    assert not blocks.stuck


@given(st.randoms(use_true_random=False))
@settings(max_examples=200)
def test_places_do_not_disturb_the_neurons(rng):
    """Empty places anywhere: the ties between neurons are those there would be without them."""
    plain, with_places, reference = Blocks(), Blocks(), PerElement()
    columns = []
    for number in range(rng.randint(2, 5)):
        size = rng.randint(1, 6)
        bare, full = plain.new(size), with_places.new(size)
        if rng.random() < 0.5:
            at = rng.randint(0, size)
            full = Vector.concat([full.cut(0, at), with_places.new(0), full.cut(at, size)])
        columns.append((bare, full, reference.new(number, size)))
    for _ in range(rng.randint(1, 6)):
        sides = []
        for _ in range(2):
            picked = [rng.choice(columns) for _ in range(rng.randint(1, 3))]
            sides.append(
                (
                    Vector.concat([bare for bare, _, _ in picked]),
                    Vector.concat([full for _, full, _ in picked]),
                    [e for _, _, elements in picked for e in elements],
                )
            )
        (bare_a, full_a, elements_a), (bare_b, full_b, elements_b) = sides
        if len(bare_a) != len(bare_b):
            continue
        plain.tie(bare_a, bare_b)
        with_places.tie(full_a, full_b)
        reference.tie(elements_a, elements_b)
    wanted = [[reference.find(e) for e in elements] for _, _, elements in columns]
    same_partition(settled(plain, [bare for bare, _, _ in columns]), wanted)
    same_partition(settled(with_places, [full for _, full, _ in columns]), wanted)


@pytest.mark.parametrize("seed", range(100))
def test_everything_tied_to_a_place_has_it(seed):
    """One new place anywhere, ties in any order: all vectors that are tied hold it, at the same offset, once.

    An edit makes one place at a time. Several that meet at the end of a vector are not promised to stay apart.
    """
    rng = random.Random(seed)
    blocks, size, count = Blocks(), rng.randint(2, 8), rng.randint(2, 5)
    vectors = [blocks.new(size) for _ in range(count)]
    at, holder = rng.randint(0, size), rng.randrange(count)
    vector = vectors[holder]
    vectors[holder] = Vector.concat([vector.cut(0, at), blocks.new(0), vector.cut(at, size)])
    ties = [(i, rng.randrange(i)) for i in range(1, count)]
    ties += [(rng.randrange(count), rng.randrange(count)) for _ in range(2)]
    rng.shuffle(ties)
    for a, b in ties:
        blocks.tie(vectors[a], vectors[b])
    assert not blocks.stuck
    found = places(blocks, vectors)
    assert [offset for offset, _ in found[0]] == [at]
    assert all(here == found[0] for here in found)


def test_a_product_is_cut_between_two_neurons_of_its_first_factor():
    blocks = Blocks()
    heads, features = blocks.new(3), blocks.new(4)
    merged, second = blocks.product([heads, features]), blocks.new(4)
    blocks.tie(merged.cut(4, 8), second)
    sizes, (row, own, first, inner), products = blocks.settle_all([merged, second, heads, features])
    assert [sizes[run] for run in row] == [4, 4, 4]
    assert own == (row[1],)
    assert [sizes[run] for run in first] == [1, 1, 1]
    assert len(inner) == 1
    assert products == {run: ((head,), inner) for run, head in zip(row, first, strict=True)}
