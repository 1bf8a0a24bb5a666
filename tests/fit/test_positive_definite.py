"""Systems solved by Cholesky factors are those that numpy solves, whatever their size, and if they have no factor."""

import numpy as np
import pytest

from naivenas_jax.fit.regression.positive_definite import inverses, solved


def systems(size: int, definite: bool) -> np.ndarray:
    rng = np.random.default_rng(size)
    root = rng.normal(size=(2, size, size))
    found = root @ root.transpose(0, 2, 1) + size * np.eye(size)
    if not definite:
        found[1] -= 3 * size * np.eye(size)
    return found


@pytest.mark.parametrize("definite", [True, False])
@pytest.mark.parametrize("size", [1, 127, 128, 129, 300])
def test_systems_are_solved_and_inverted(size, definite):
    right = np.random.default_rng(0).normal(size=(2, size, 3))
    wanted = np.linalg.solve(systems(size, definite), right)
    np.testing.assert_allclose(solved(systems(size, definite), right), wanted, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(
        inverses(systems(size, definite)), np.linalg.inv(systems(size, definite)), rtol=1e-6, atol=1e-9
    )
