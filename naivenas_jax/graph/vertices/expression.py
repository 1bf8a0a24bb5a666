"""Axes that are made of others, in the notation of patterns: ``4*out``, ``forward+backward``, ``heads*width``.

- ``a+b``: the neurons of ``a``, then those of ``b``;
- ``4*a``: those of ``a``, four times over;
- ``a*b``: all combinations, with ``b`` running fastest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from naivenas_jax.errors import GraphError
from naivenas_jax.sizes.blocks import Blocks
from naivenas_jax.sizes.vector import Vector


@dataclass(frozen=True)
class Term:
    """One term of a sum, ``times * factor * factor * ...``.

    Attributes:
      times: the product of the numbers.
      factors: the names of the axes.
    """

    times: int
    factors: tuple[str, ...]


@cache
def terms(text: str) -> tuple[Term, ...]:
    """The terms of a sum.

    >>> terms("3*heads*width+rest")
    (Term(times=3, factors=('heads', 'width')), Term(times=1, factors=('rest',)))
    """
    return tuple(_term(part, text) for part in text.split("+"))


def _term(part: str, text: str) -> Term:
    words = part.split("*")
    numbers, names = [int(word) for word in words if word.isdigit()], [word for word in words if not word.isdigit()]
    if not names or not all(names):
        raise GraphError(f"{text!r} is no axis: write names joined by '*' and '+', as in 'a', '4*a', 'a+b', 'a*b'.")
    return Term(math.prod(numbers), tuple("in0" if name == "in" else name for name in names))


def names_in(text: str) -> tuple[str, ...]:
    """The axes that an expression is made of."""
    return tuple(name for term in terms(text) for name in term.factors)


def is_name(text: str) -> bool:
    """Whether an expression is one axis, and not made of others.

    >>> is_name("out"), is_name("4*out")
    (True, False)
    """
    return text.isidentifier()


def size_of(text: str, sizes: Mapping[str, int]) -> int:
    """The number of neurons, given those of the axes.

    >>> size_of("3*heads*width+rest", {"heads": 2, "width": 4, "rest": 1})
    25
    """
    return sum(term.times * math.prod(sizes[name] for name in term.factors) for term in terms(text))


def vector_of(text: str, vectors: Mapping[str, Vector], blocks: Blocks) -> Vector:
    """The neurons, given those of the axes."""
    return Vector.concat(
        [blocks.product([vectors[name] for name in term.factors]).tile(term.times) for term in terms(text)]
    )


def renamed(text: str, names: Mapping[str, str]) -> str:
    """The same expression with other axes.

    >>> renamed("in+2*out", {"in": "out", "out": "forward"})
    'out+2*forward'
    """
    return "+".join("*".join(names.get(word, word) for word in part.split("*")) for part in text.split("+"))
