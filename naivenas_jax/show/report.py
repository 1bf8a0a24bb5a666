"""A mutation as a table, a picture and a dict, to look at before it is used."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from dataclasses import dataclass
from html import escape

from rich.table import Table
from rich.text import Text

from naivenas_jax.cost.costs import Costs
from naivenas_jax.mutate.result.mutation import Mutation, require_mutation
from naivenas_jax.mutate.result.mutation_report import HandleReport, mutation_report
from naivenas_jax.typing import Array, Shape
from naivenas_jax.utility.user_scores import Utility
from naivenas_jax.views import view as views
from naivenas_jax.views.as_text import as_text
from naivenas_jax.views.viewable import Viewable

_FONT = 'font-family="sans-serif" font-size="11"'
_MEASURED = ("score kept", "unsure")


@dataclass(frozen=True)
class Report(Viewable):
    """What a mutation does. Prints as a table; notebooks draw it as well.

    The table and the drawing show one of the handles that have the same neurons, and how many others there are.

    Attributes:
      handles: one entry for each handle of the network before, then one for each handle that is new.
      before: what the network before costs.
      after: what the network after costs.
      gap: within budgets, how much more utility the best sizes could keep at the most, as a share.
      notes: the notes of the mutation.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("hidden", nn.Dense(8), x)))
    >>> variables = graph.init(jax.random.key(0), jax.numpy.ones((1, 3)))
    >>> found = nas.report(nas.delta_nout(graph, variables, {"hidden": -2}))
    >>> found.before.params, found.after.params
    (50, 38)
    >>> found.to_dict()["handles"]["hidden"]["after"], found.svg()[:4]
    (6, '<svg')
    """

    handles: tuple[HandleReport, ...]
    before: Costs
    after: Costs
    gap: float
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        """The report as plain data; see `Report`.

        Returns:
          Dicts, lists, numbers and text only, as JSON has them. A gap that is infinite is None.
        """
        found = dataclasses.asdict(self)
        found["gap"] = self.gap if math.isfinite(self.gap) else None
        found["handles"] = {entry.pop("handle"): _plain(entry) for entry in found["handles"]}
        return {**found, "notes": list(self.notes)}

    def __rich__(self) -> Table:
        table = Table(caption=Text("\n".join(self._totals())), caption_justify="left")
        measured = any(one.unsure is not None for one in self.handles)
        for column in self._columns() + (_MEASURED if measured else ()):
            table.add_column(column, overflow="fold")
        for one, tied in self._distinct():
            table.add_row(*map(Text, (*self._cells(one, tied), *(_certainty(one) if measured else ()))))
        return table

    def __str__(self) -> str:
        return as_text(self.__rich__())

    def svg(self) -> str:
        """A picture: for each handle its size before (light) and after (dark), new neurons in another colour.

        For an example see `Report`.

        Returns:
          The text of an SVG image.
        """
        largest = max([1, *(max(one.before, one.after) for one in self.handles)])
        drawn = self._distinct()
        bars = "".join(_bar(i, one, tied, 300 / largest) for i, (one, tied) in enumerate(drawn))
        height = 20 * len(drawn) + 10
        size = f'viewBox="0 0 640 {height}" width="640"'  # the height follows where a narrow window makes it less wide
        style = "<title>Sizes before and after</title><style>.nas-report{background:white;max-width:100%}</style>"
        head = f'<svg xmlns="http://www.w3.org/2000/svg" class="nas-report" role="img" {size} {_FONT}>'
        return f"{head}{style}{bars}</svg>"

    _repr_svg_ = svg

    def _distinct(self) -> list[tuple[HandleReport, int]]:
        """Handles with neurons of their own, each with how many others have just the same."""
        tied = Counter(one.same_as for one in self.handles)
        return [(one, tied[one.handle]) for one in self.handles if one.same_as is None]

    def _columns(self) -> tuple[str, ...]:
        """The heads of the columns; of operations only where some were counted."""
        return "handle", "size", "parameters", *(("MACs",) if self._counted else ()), "utility kept", "bound by"

    def _cells(self, one: HandleReport, tied: int) -> tuple[str, ...]:
        size = str(one.before) if one.before == one.after else f"{one.before} -> {one.after}"
        if one.new:
            size += f" ({one.new} new)"
        kept = "" if one.utility_kept is None else f"{one.utility_kept:.1%}"
        macs = ("" if one.macs is None else _change(*one.macs),) if self._counted else ()
        return _named(one.handle, tied), size, _change(*one.params), *macs, kept, "; ".join(one.bound_by)

    @property
    def _counted(self) -> bool:
        """Whether operations were counted."""
        return any(one.macs is not None for one in self.handles)

    def _totals(self) -> list[str]:
        found = []
        for field in dataclasses.fields(Costs):
            before, after = getattr(self.before, field.name), getattr(self.after, field.name)
            if before is not None:
                found.append(f"{field.name}: {before:,} -> {after:,}{_share(before, after)}")
        return [*found, *([f"gap: at most {self.gap:.2%}"] if 0 < self.gap < math.inf else []), *self.notes]


@views.view.register
def report_view(shown: Report) -> views.View:
    """The picture, the table, and what the whole costs."""
    columns, rows = shown._columns(), tuple(shown._cells(*each) for each in shown._distinct())
    table = views.Table(columns, rows, frozenset(range(1, len(columns) - 1)))
    return views.Picture(shown.svg), table, views.Words(tuple(shown._totals()))


def report(mutation: Mutation, *inputs: Array | Shape, measured: tuple[Utility, Utility] | None = None) -> Report:
    """What a mutation does to each handle, and to the whole: sizes, parameters, operations, utility kept, what bound.

    Nothing is evaluated, and the variables may be shapes: with ``jax.eval_shape`` in place of ``graph.init`` every verb
    is a dry run, in which every neuron has the same utility.

    Args:
      mutation: what a verb returned.
      *inputs: arrays or shapes for the graph before the change; without them operations are not counted.
      measured: to see how sure the choice is, a pair of scores and standard errors, as ``nas.fisher(..., errors=True)``
        and ``nas.taylor(..., errors=True)`` return, on the graph before. The report then has the share of these scores
        that is kept with its standard error, and how many of the dropped neurons are unsure: within a standard error of
        the least that is kept. They need not be the scores that decided.

    Returns:
      A `Report`: ``print`` it, ``.to_dict()`` it, or ``.svg()`` it.

    Raises:
      PlanError: if no mutation is given.
      BudgetError: if operations cannot be counted.
      UtilityError: if ``measured`` is no such pair.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("hidden", nn.Dense(8), x)))
    >>> shapes = jax.eval_shape(graph.init, jax.random.key(0), jax.numpy.ones((1, 3)))
    >>> found = nas.report(nas.resize(graph, shapes, max_params=0.5), jax.numpy.ones((1, 3)))
    >>> hidden = found.to_dict()["handles"]["hidden"]
    >>> hidden["before"], hidden["after"], hidden["params"], hidden["macs"], hidden["bound_by"]
    (8, 3, [48, 18], [40, 15], ['max_params'])
    """
    found = mutation_report(require_mutation(mutation), inputs, measured)
    return Report(found.handles, found.before, found.after, mutation.gap, mutation.notes)


def _plain(entry: dict[str, object]) -> dict[str, object]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in entry.items()}


def _named(handle: str, tied: int) -> str:
    return f"{handle} (+ {tied} tied)" if tied else handle


def _certainty(one: HandleReport) -> tuple[str, str]:
    kept = "" if one.score_kept is None else "{:.1%} ± {:.1%}".format(*one.score_kept)
    return kept, f"{one.unsure} of {one.before - one.kept}" if one.unsure is not None and one.kept < one.before else ""


def _change(before: int, after: int) -> str:
    return f"{before:,}" if before == after else f"{before:,} -> {after:,}"


def _share(before: int, after: int) -> str:
    return f" ({after / before:.1%})" if before else ""


def _bar(i: int, one: HandleReport, tied: int, scale: float) -> str:
    """One handle: its name, a bar for each of before, kept and new, and the sizes."""
    y = 20 * i + 5
    rects = (
        (0, one.before, "#cfd8dc"),
        (0, one.kept, "#37617d"),
        (one.kept, one.new, "#c9822b"),
    )
    drawn = "".join(
        f'<rect x="{190 + start * scale:.1f}" y="{y}" width="{width * scale:.1f}" height="14" fill="{colour}"/>'
        for start, width, colour in rects
    )
    name = f'<text x="184" y="{y + 11}" text-anchor="end">{escape(_named(one.handle, tied)[-28:])}</text>'
    return f'{name}{drawn}<text x="500" y="{y + 11}">{one.before} → {one.after}</text>'
