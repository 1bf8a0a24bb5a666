"""What a rule answers: what was asked for, or the error that says why not, as a value."""

from __future__ import annotations

from typing import TypeVar

from naivenas_jax.errors import NaiveNASError

T = TypeVar("T")


def granted(answer: T | NaiveNASError) -> T:
    """The answer of a rule, as a verb takes it.

    Raises:
      NaiveNASError: if the answer is the error that says why not.
    """
    if isinstance(answer, NaiveNASError):
        raise answer
    return answer
