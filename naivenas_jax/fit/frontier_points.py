"""Networks of several sizes with what a user's measure says of them: as numbers, a table and a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from naivenas_jax.checks import as_number, shown
from naivenas_jax.cost.costs import Costs
from naivenas_jax.errors import BudgetError
from naivenas_jax.mutate.result.mutation import Mutation

_WIDTH, _HEIGHT, _MARGIN = 480, 300, 56


@dataclass(frozen=True, eq=False)
class FrontierPoint:
    """A network on a frontier.

    Attributes:
      mutation: from the network given to this one; None for the network given itself.
      costs: what it costs: parameters and bytes, and operations for one example, or for the ``inputs=`` of `frontier`.
      measure: what the user's measure says of it.
      latency: seconds, by the table that was given; None without one.

    >>> import naivenas_jax as nas
    >>> nas.FrontierPoint(None, nas.Costs(params=20, bytes=80), 0.9).measure
    0.9
    """

    mutation: Mutation | None
    costs: Costs
    measure: float
    latency: float | None = None


@dataclass(frozen=True, eq=False)
class Frontier:
    """A user's measure against the size of the network: the result of `frontier`.

    ``print`` shows a table, a notebook a picture.

    Attributes:
      original: the network given.
      points: smaller and smaller networks.
      budget: what was limited, such as ``"max_params"``.
      ended: why there are no networks for the smallest fractions that were asked for; None: there are.

    >>> import naivenas_jax as nas
    >>> points = [nas.FrontierPoint(None, nas.Costs(params=n, bytes=4 * n), m) for n, m in ((20, 0.9), (10, 0.8))]
    >>> frontier = nas.Frontier(points[0], (points[1],), "max_params")
    >>> print(frontier)
       share   parameters   measure
       1.000           20       0.9
       0.500           10       0.8
    >>> frontier.smallest(loss=0.2).costs.params, frontier.svg()[:4]
    (10, '<svg')
    """

    original: FrontierPoint
    points: tuple[FrontierPoint, ...]
    budget: str
    ended: str | None = None

    def _cost(self, point: FrontierPoint) -> int:
        """What was limited, of one network."""
        found = getattr(point.costs, self.budget.removeprefix("max_"))
        return int(found)

    def smallest(self, loss: float) -> FrontierPoint:
        """The smallest network whose measure is at most so much below that of the network given; see `Frontier`.

        Args:
          loss: how much of the measure may be lost, in its own units.

        Returns:
          The network given itself, if no other one is good enough.

        Raises:
          BudgetError: if ``loss`` is no number of at least 0.
        """
        least = self.original.measure - require_loss(loss)
        good = [point for point in (self.original, *self.points) if point.measure >= least]
        return min(good, key=self._cost, default=self.original)

    def __str__(self) -> str:
        every, full = (self.original, *self.points), self._cost(self.original)
        columns: list[tuple[str, list[str]]] = [
            ("share", [f"{self._cost(point) / full:.3f}" for point in every]),
            ("parameters", [f"{point.costs.params:,}" for point in every]),
            ("MACs", [f"{point.costs.macs:,}" for point in every if point.costs.macs is not None]),
            ("seconds", [f"{point.latency:.3g}" for point in every if point.latency is not None]),
            ("measure", [f"{point.measure:.4g}" for point in every]),
        ]
        present = [(name, cells) for name, cells in columns if len(cells) == len(every)]
        wide = [max(map(len, (name, *cells))) for name, cells in present]
        rows = [[name for name, _ in present], *zip(*(cells for _, cells in present), strict=True)]
        lines = ["   " + "   ".join(cell.rjust(n) for cell, n in zip(row, wide, strict=True)) for row in rows]
        return "\n".join([*lines, self.ended] if self.ended else lines)

    def svg(self) -> str:
        """A picture: the measure of every network over its share of the cost; see `Frontier`.

        Returns:
          SVG, as text.
        """
        every, full = (self.original, *self.points), self._cost(self.original)
        x, y = [self._cost(point) / full for point in every], [point.measure for point in every]
        low, high = _limits(y)
        across = [_MARGIN + (_WIDTH - 2 * _MARGIN) * share for share in x]
        up = [_HEIGHT - _MARGIN - (_HEIGHT - 2 * _MARGIN) * (value - low) / (high - low) for value in y]
        name = escape(self.budget.removeprefix("max_"))
        marks = "".join(
            f'<circle cx="{a:.1f}" cy="{b:.1f}" r="4" fill="#1f77b4"><title>{share:.3f}: {value:.4g}</title></circle>'
            for a, b, share, value in zip(across, up, x, y, strict=True)
        )
        line = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(across, up, strict=True))
        left, bottom = _MARGIN, _HEIGHT - _MARGIN
        words = "".join(
            [
                *(_text(_MARGIN + (_WIDTH - 2 * _MARGIN) * share, bottom + 18, f"{share:g}") for share in (0, 0.5, 1)),
                _text(left - 8, bottom, f"{low:.3g}", "end"),
                _text(left - 8, _MARGIN + 4, f"{high:.3g}", "end"),
                _text(_WIDTH / 2, _HEIGHT - 14, f"share of {name}"),
                _text(left, _MARGIN - 16, "measure"),
            ]
        )
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" role="img" '
            f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
            f'<path d="M{left},{_MARGIN} V{bottom} H{_WIDTH - _MARGIN}" stroke="#888" fill="none"/>'
            f'<polyline points="{line}" stroke="#1f77b4" fill="none"/>{marks}{words}</svg>'
        )

    def _repr_html_(self) -> str:
        return f"{self.svg()}<pre>{escape(str(self))}</pre>"


def require_loss(loss: object) -> float:
    """``loss``, if it is a number of at least 0.

    Raises:
      BudgetError: if not.
    """
    number = as_number(loss)
    if number is None or not 0 <= number < math.inf:
        raise BudgetError(f"loss= is how much of the measure may be lost, at least 0; found {shown(loss)}.")
    return float(number)


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """The least and the largest value, apart from one another."""
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _text(x: float, y: float, words: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#333">{escape(words)}</text>'
