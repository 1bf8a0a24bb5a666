"""Products of sizes in a linear program: the McCormick envelope.

For ``l <= s <= u`` and ``m <= t <= v`` the product ``p = s t`` satisfies

    p >= l t + m s - l m     p >= u t + v s - u v
    p <= u t + m s - u m     p <= l t + v s - l v

and these are the convex hull of its graph (McCormick 1976). The tighter the bounds, the tighter the hull. Sizes are
divided by the largest that they can be, so that all numbers are of the order of 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Real

from naivenas_jax.align.problem.budget import Monomial, Polynomial
from naivenas_jax.align.program.milp import IntegerProgram, LinearRows, Point, Unknowns

Interval = tuple[float, float]
#: Bounds of the size of each row.
Box = Mapping[int, Interval]


@dataclass(frozen=True, eq=False)
class _Pair:
    """A product of two factors, each a size or a product of sizes.

    Attributes:
      column: of the product.
      left: the rows of the problem in the first factor.
      right: the rows of the problem in the second factor.
      rows: of the program: the four inequalities of the envelope.
    """

    column: int
    left: Monomial
    right: Monomial
    rows: tuple[int, ...]


@dataclass(eq=False)
class Envelope:
    """Columns and rows that stand for the counts of budgets.

    Attributes:
      polynomials: the counts.
      scale: for each row that may change the largest size that it can have.
      columns: of each row, and of each product of rows.
      pairs: the products.
      linear: for each count an inequality to be filled with its linearisation.
    """

    polynomials: tuple[Polynomial, ...]
    scale: dict[int, float]
    columns: dict[Monomial, int] = field(default_factory=dict)
    pairs: list[_Pair] = field(default_factory=list)
    linear: list[int] = field(default_factory=list)

    @classmethod
    def build(
        cls,
        polynomials: Sequence[Polynomial],
        sizes: Mapping[int, tuple[dict[int, float], float]],
        box: Box,
        columns: Unknowns,
        equal: LinearRows,
        below: LinearRows,
    ) -> Envelope:
        """Add what is needed to a program under construction.

        Args:
          polynomials: the counts.
          sizes: for each row that occurs in them its size as coefficients of columns, and a constant.
          box: bounds of these sizes.
          columns: of the program.
          equal: equalities of the program.
          below: inequalities of the program.
        """
        self = cls(tuple(polynomials), {row: max(high, 1.0) for row, (_, high) in box.items()})
        for row, (terms, constant) in sizes.items():
            column = self.columns[(row,)] = columns.add(1.0)
            scaled = {key: value / self.scale[row] for key, value in terms.items()}
            equal.add({**scaled, column: -1.0}, -constant / self.scale[row])
        for polynomial in polynomials:
            for rows in polynomial.terms:
                self._product(rows, columns, below)
        for polynomial in polynomials:
            self._limit(polynomial, below)
        return self

    def _product(self, rows: Monomial, columns: Unknowns, below: LinearRows) -> int:
        if rows not in self.columns:
            left, right = rows[:-1], rows[-1:]
            parts = {self._product(left, columns, below), self._product(right, columns, below)}
            column = self.columns[rows] = columns.add(1.0)
            numbers = tuple(below.add({column: 1.0, **dict.fromkeys(parts, 1.0)}, 0.0) for _ in range(4))
            self.pairs.append(_Pair(column, left, right, numbers))
        return self.columns[rows]

    def _scaled(self, polynomial: Polynomial, rows: Monomial) -> float:
        """The coefficient of a scaled product, as a fraction of the bound."""
        return polynomial.terms[rows] * float(np.prod([self.scale[row] for row in rows])) / max(polynomial.bound, 1.0)

    def _limit(self, polynomial: Polynomial, below: LinearRows) -> None:
        room = (polynomial.bound - polynomial.constant) / max(polynomial.bound, 1.0)
        below.add({self.columns[rows]: self._scaled(polynomial, rows) for rows in polynomial.terms}, room)
        single = {self.columns[(row,)]: 1.0 for rows in polynomial.terms for row in rows}
        self.linear.append(below.add(single, np.inf))

    def within(self, program: IntegerProgram, box: Box) -> None:
        """Limit the sizes to a box, which tightens the envelope."""
        bounds: dict[Monomial, Interval] = {}
        for row, (low, high) in box.items():
            bounds[(row,)] = low / self.scale[row], high / self.scale[row]
            program.set_bounds(self.columns[(row,)], *bounds[(row,)])
        for pair in self.pairs:  # factors come before their products
            (low, up), (m, v) = bounds[pair.left], bounds[pair.right]
            bounds[(*pair.left, *pair.right)] = low * m, up * v
            program.set_bounds(pair.column, low * m, up * v)
            corners = ((-1, low, m), (-1, up, v), (1, up, m), (1, low, v))
            for number, (sign, a, b) in zip(pair.rows, corners, strict=True):
                # sign (p - a t - b s) <= -sign a b
                self._write(program, number, pair, sign, a, b)

    def _write(self, program: IntegerProgram, number: int, pair: _Pair, sign: float, a: float, b: float) -> None:
        terms = {pair.column: sign}
        for column, value in ((self.columns[pair.right], a), (self.columns[pair.left], b)):
            terms[column] = terms.get(column, 0.0) - sign * value
        program.set_row(number, np.array(list(terms)), np.array(list(terms.values())))
        program.set_bound(number, -sign * a * b)

    def linearise(
        self, program: IntegerProgram, sizes: Real[np.ndarray, " rows"] | None, room: Sequence[float] = ()
    ) -> None:
        """Require the budgets of the linearisations of the counts at given sizes, or take that back.

        Args:
          program: the program.
          sizes: of all rows; None: take it back.
          room: for each count how far to stay below its bound.
        """
        for i, (number, polynomial) in enumerate(zip(self.linear, self.polynomials, strict=True)):
            if sizes is None:
                program.set_bound(number, np.inf)
                continue
            slope = polynomial.gradient(sizes)
            scale = max(polynomial.bound, 1.0)
            at = polynomial.at(sizes) - sum(value * float(sizes[row]) for row, value in slope.items())
            rows = list(slope)
            values = np.array([slope[row] * self.scale[row] / scale for row in rows], dtype=float)
            program.set_row(number, np.array([self.columns[(row,)] for row in rows], dtype=int), values)
            program.set_bound(number, (polynomial.bound - room[i] - at) / scale)

    def sizes(self, x: Point, count: int) -> Float[np.ndarray, " rows"]:
        """The sizes of rows at a point of the program; 0 for rows that no count depends on."""
        found = np.zeros(count)
        for row, scale in self.scale.items():
            found[row] = x[self.columns[(row,)]] * scale
        return found

    def loosest(self, x: Point) -> dict[int, float]:
        """For each row how far products that it is part of are from what they stand for, as a share of the bounds."""
        found: dict[int, float] = {}
        for pair in self.pairs:
            off = abs(x[pair.column] - x[self.columns[pair.left]] * x[self.columns[pair.right]])
            rows = (*pair.left, *pair.right)
            weight = sum(
                abs(self._scaled(p, key)) for p in self.polynomials for key in p.terms if key[: len(rows)] == rows
            )
            for row in rows:
                found[row] = found.get(row, 0.0) + off * weight
        return found
