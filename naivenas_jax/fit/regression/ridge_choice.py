"""The ridge that the data chooses: the one with the smallest error on rows held out.

Every ridge is a system to factor, which is most of what the fit of a wide weight costs. With one of them factored, the
solutions of the ridges next to it are nearly known: with A = X^T X, F = A + r I factored, and another ridge q,

    (A + q I)^-1 g  =  (I + (q - r) F^-1)^-1 F^-1 g,

and the matrix in the middle has eigenvalues from q / r to 1. A few steps of the method of Lanczos with F^-1 make a
small matrix of it for every column, of which all q are solved.

Source: shift-and-invert Krylov spaces, Ericsson and Ruhe 1980; for ridges, Frommer and Maass, Fast CG-Based Methods for
Tikhonov-Phillips Regularization, SIAM J. Sci. Comput. 1999.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from naivenas_jax.fit.regression.positive_definite import Factored
from naivenas_jax.fit.regression.ridge import NormalEquations

#: Relative ridges among which the data chooses; with the last, weights stay as they are. Layer after layer each fit
#: would follow the noise of too few examples a little further.
LADDER = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, np.inf)

#: Where on it the search begins.
_START = 2

#: From so many inputs on, and up to an eighth as many outputs, other ridges are guessed from the one that is factored.
_GUESSED = 512
#: Steps of Lanczos.
_STEPS = 6
#: By how much equations of a guess may be missed, relative to their right sides.
_MISSED = 2e-3


def chosen_ridge(
    fitted: NormalEquations, held_out: NormalEquations, present: Float[np.ndarray, "G K M"], shifts: bool
) -> float:
    """The ridge with the smallest error on rows held out, when fitted to the others: searched down and up from 1e-4.

    As a rule the error has one minimum: too small a ridge follows the noise, too large a one stays with the present
    weights. So the search goes on as long as the error gets smaller, and not up if it went down. Of wide weights
    another ridge is only factored if it cannot be told from the last one.

    Args:
      fitted: sums over the rows that are fitted to.
      held_out: sums over the others.
      present: the weights now.
      shifts: whether there is a shift c.
    """
    if not held_out.number:
        return 1e-3
    held_out = held_out.reduced(shifts)
    own = fitted.reduced(shifts)
    right = own.xy - own.times(present)
    first = _Solution(own, right, _START)
    errors = {len(LADDER) - 1: held_out.error(present), _START: held_out.error(present + first.found)}
    for step in (-1, 1):
        here, last = first, _START
        while 0 <= (place := last + step) < len(LADDER) - 1:
            if (found := here.near(place)) is None:
                here = _Solution(own, right, place)
                found = here.found
            errors[place] = held_out.error(present + found)
            if not errors[place] < errors[last]:
                break
            last = place
        if last != _START:
            break
    return LADDER[min(sorted(errors), key=lambda place: errors[place])]


class _Solution:
    """What is added to the present weights with one of the ridges. The factor is not kept: it is as large as the sums.

    Args:
      sums: what is fitted to.
      right: ``X^T (Y - X B)`` for the present weights B.
      place: of the ridge.
    """

    def __init__(self, sums: NormalEquations, right: Float[np.ndarray, "G K M"], place: int):
        self.place, self.sums = place, sums
        system = Factored(sums.system(LADDER[place]))
        self.found = system.solved(right)
        guesses = sums.inputs >= max(_GUESSED, 8 * right.shape[2])
        self._nearby = _Nearby.of(system, self.found) if guesses else None

    def near(self, place: int) -> Float[np.ndarray, "G K M"] | None:
        """The same with another ridge; None if that is not known well enough, or as quickly found by a factor."""
        if self._nearby is None:
            return None
        basis, projected, over = self._nearby
        further = self.sums.weight(LADDER[place]) - self.sums.weight(LADDER[self.place])
        matrices = np.eye(_STEPS) + further[:, None, None, None] * projected
        size = np.linalg.norm(self.found, axis=1)
        inner = np.linalg.solve(matrices, size[..., None, None] * np.eye(_STEPS)[:, :1])[..., 0]
        missed = further[:, None] * over * inner[..., -1]
        if not np.linalg.norm(missed) <= _MISSED * np.linalg.norm(size):
            return None
        return np.asarray(np.einsum("sgkm,gms->gkm", basis, inner))


class _Nearby(NamedTuple):
    """A system in a small space around its solution.

    Attributes:
      basis: for each column a basis that begins with what was found.
      projected: the inverse of the system in it.
      over: what is over behind the last step.
    """

    basis: Float[np.ndarray, "steps G K M"]
    projected: Float[np.ndarray, "G M steps steps"]
    over: Float[np.ndarray, "G M"]

    @classmethod
    def of(cls, system: Factored, found: Float[np.ndarray, "G K M"]) -> _Nearby:
        """The space that steps of Lanczos span, from the solution on."""
        basis, made = [_normalised(found)], list[np.ndarray]()
        for step in range(_STEPS):
            made.append(system.solved(basis[step]))
            rest = made[step].copy()
            for one in basis:
                rest -= (one * rest).sum(1, keepdims=True) * one
            basis.append(_normalised(rest))
        own = np.stack(basis[:-1])
        return cls(own, np.einsum("sgkm,tgkm->gmst", own, np.stack(made)), np.linalg.norm(rest, axis=1))


def _normalised(columns: Float[np.ndarray, "G K M"]) -> Float[np.ndarray, "G K M"]:
    """Every column with length 1, or 0."""
    size = np.linalg.norm(columns, axis=1, keepdims=True)
    return np.asarray(np.divide(columns, size, out=np.zeros_like(columns), where=size > 0))
