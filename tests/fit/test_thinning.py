"""Some rows of a contraction are those rows of all of them, and evenly spread over examples and positions."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from naivenas_jax.dataflow.contraction import Contraction
from naivenas_jax.dataflow.tape import record
from naivenas_jax.dataflow.thinning import FREE, picked_rows, thinning
from naivenas_jax.dataflow.walk import walk_tape

LAYERS = {
    "dense": (nn.Dense(5), (3, 4)),
    "positions": (nn.Dense(5), (3, 7, 4)),
    "heads": (nn.DenseGeneral((2, 3)), (3, 7, 4)),
    "conv": (nn.Conv(5, (3, 3)), (3, 6, 7, 4)),
    "strided": (nn.Conv(5, (3, 2), strides=(2, 3), padding="VALID"), (3, 8, 9, 4)),
    "dilated": (nn.Conv(5, (3,), kernel_dilation=2, padding="CAUSAL"), (3, 11, 4)),
    "input dilated": (nn.Conv(5, (3,), input_dilation=2, padding=1), (3, 6, 4)),
    "transposed": (nn.ConvTranspose(5, (3, 3), strides=(2, 2)), (3, 4, 5, 4)),
    "grouped": (nn.Conv(6, (3, 3), feature_group_count=2), (3, 6, 5, 4)),
    "depthwise": (nn.Conv(4, (3,), feature_group_count=4), (3, 9, 4)),
    "mostly padding": (nn.Conv(4, (9, 5), kernel_dilation=(1, 2)), (3, 3, 2, 4)),
    "holes in what is seen": (nn.Conv(4, (7,), strides=(6,), input_dilation=3, padding=6), (3, 2, 4)),
    "volume": (nn.Conv(3, (2, 3, 2), padding=1), (2, 3, 4, 3, 2)),
}


@pytest.mark.parametrize("every", [1, 3, 7])
@pytest.mark.parametrize("name", LAYERS)
def test_some_rows_are_those_of_all(name, every):
    layer, shape = LAYERS[name]
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    variables = layer.init(jax.random.key(0), x)
    uses = []
    tape = record(lambda v, x: (layer.apply(v, x),), variables, (x,))
    walk_tape(tape, variables, tape.start((x,)), uses.append)
    (use,) = (use for use in uses if isinstance(use, Contraction))
    picked = use.picked(every)
    assert len(picked) == pytest.approx(use.sizes.rows / every, abs=1)
    np.testing.assert_array_equal(use.x_at(picked), use.x[:, picked])
    made = use.x_at(picked) @ use.matrix(variables["params"]["kernel"])
    np.testing.assert_allclose(made, use.y[:, picked], atol=1e-5)
    np.testing.assert_array_equal(use.x_at(picked, seen=True), use.x_at(picked)[:, :, use.seen])
    alone = np.asarray(use.evaluated_at(picked, variables["params"]["kernel"]).y)
    np.testing.assert_allclose(alone[:, picked], use.y[:, picked], atol=1e-5)
    assert not np.delete(alone, picked, 1).any()


@pytest.mark.parametrize("every", [2, 3, 4])
@pytest.mark.parametrize("positions", [1, 4, 5, 6])
def test_all_positions_have_their_turn(positions, every):
    picked = picked_rows(24 * positions, 24, every)
    assert len(picked) == 24 * positions // every
    seen = np.bincount(picked % positions, minlength=positions)
    assert seen.min() >= seen.max() - 1 > 0


def test_few_rows_or_columns_are_all_taken():
    assert thinning(10_000, 100, 4) == 1  # 1e8 multiplications
    assert thinning(10_000, 4_000, 4) == 1  # not three rows for each column
    many = thinning(1_000_000, 1_000, 4)
    assert many == 1_000_000 * 1_000**2 / FREE
    assert 1_000_000 / many >= 4 * 1_000
