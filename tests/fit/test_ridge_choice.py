"""The ridge that is chosen is the one that trying all of them finds, with fewer systems factored."""

import numpy as np
import pytest

from naivenas_jax.fit.regression import ridge_choice
from naivenas_jax.fit.regression.ridge import NormalEquations
from naivenas_jax.fit.regression.ridge_choice import LADDER, chosen_ridge


def equations(rng, x, b, noise):
    """Sums over the rows of X, and of Y which B makes of them with some noise."""
    y = x @ b + noise * rng.normal(size=(*x.shape[:2], b.shape[2]))
    ones = np.ones((*x.shape[:2], 1))
    sums = np.concatenate([x, ones], -1).transpose(0, 2, 1) @ np.concatenate([x, y, ones], -1)
    return NormalEquations(sums, (y**2).sum(1))


def problem(seed, groups, noise, spread):
    """Rows to fit to, rows held out and present weights of 40 inputs whose spread falls by some powers of e."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(40, 40)))[0] * np.exp(-np.linspace(0, spread, 40))[:, None]
    b = rng.normal(size=(groups, 40, 3))
    rows = [rng.normal(size=(groups, n, 40)) @ turn + 1 for n in (120, 40)]
    return *(equations(rng, x, b, noise) for x in rows), b + 0.3 * rng.normal(size=b.shape)


def held_out_errors(fitted, held_out, present):
    """The error of every ridge, by solving for it."""
    own, others = fitted.centred(), held_out.centred()
    found = [np.linalg.solve(own.system(ridge), own.xy - own.times(present)) for ridge in LADDER[:-1]]
    return [*(others.error(present + one) for one in found), others.error(present)]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("noise", [0.001, 0.1, 1, 20])
@pytest.mark.parametrize("spread", [0, 3, 8])
def test_the_ridge_is_the_best_or_as_good(monkeypatch, spread, noise, groups):
    given = problem(1, groups, noise, spread)
    errors, factored, chosen = held_out_errors(*given), [], []
    own = ridge_choice.Factored
    monkeypatch.setattr(ridge_choice, "Factored", lambda matrices: factored.append(1) or own(matrices))
    for guessed in (512, 40):
        monkeypatch.setattr(ridge_choice, "_GUESSED", guessed)
        factored.clear()
        chosen.append((chosen_ridge(*given, shifts=True), len(factored)))
    (ridge, every), (guessed, fewer) = chosen
    assert errors[LADDER.index(ridge)] == pytest.approx(min(errors), rel=1e-9)
    assert errors[LADDER.index(guessed)] <= 1.01 * min(errors)
    assert fewer <= every - (spread < 8)
    assert spread or fewer <= 2


def test_solutions_nearby(monkeypatch):
    monkeypatch.setattr(ridge_choice, "_GUESSED", 40)
    fitted, _, present = problem(2, 2, 0.1, 3)
    own = fitted.centred()
    right = own.xy - own.times(present)
    right[:, :, 1] = 0
    here = ridge_choice._Solution(own, right, 2)
    for place in (1, 3):
        wanted = np.linalg.solve(own.system(LADDER[place]), right)
        assert np.linalg.norm(here.near(place) - wanted) <= 0.05 * np.linalg.norm(wanted - here.found)
        assert not here.near(place)[:, :, 1].any()
