"""What there is to see of mutations and plans."""

from __future__ import annotations

import math

from naivenas_jax.align.axis_plan import AxisPlan, Positions
from naivenas_jax.align.plan import Plan
from naivenas_jax.mutate.result.mutation import Mutation
from naivenas_jax.paths import path_text
from naivenas_jax.show.drawing.drawing import Drawing, Edge
from naivenas_jax.show.drawing.drawn_change import drawn_change
from naivenas_jax.show.drawing.svg_text import svg_text
from naivenas_jax.views.view import Picture, Table, View, Words, view

#: So many rows are shown; of more, the rest is counted.
_ROWS = 200


@view.register
def mutation_view(mutation: Mutation) -> View:
    """A mutation: the networks before and after in one picture, what became of each axis, and the notes."""
    drawing = drawn_change(mutation)
    said = list(dict.fromkeys((*_edits(drawing), *mutation.notes)))
    if mutation.aligned != "none":
        said.append(f"Sizes that disagreed after the edit were brought in line: {mutation.aligned}.")
    if 0 < mutation.gap < math.inf:
        said.append(f"The best sizes could keep at most {mutation.gap:.2%} more utility.")
    changes = f"{mutation.kind or 'mutation'}: {_sizes(mutation.plan)}"
    words = (Words(tuple(said)),) if said else ()
    return Words((changes,), heading=True), Picture(lambda: svg_text(drawing)), *plan_view(mutation.plan), *words


@view.register
def plan_view(plan: Plan) -> View:
    """A plan: for each axis that changes its sizes, and which neurons stay, go and come."""
    changed = plan.named or plan.changed
    rows = [(plan.renamed.get(name, name), name, axis) for name, axis in changed.items()]
    shown = tuple(
        (name if old == name else f"{old}, now {name}", f"{axis.before} → {axis.after}", *_positions(axis))
        for old, name, axis in rows[:_ROWS]
    )
    said = [f"and {len(rows) - _ROWS} axes more"] if len(rows) > _ROWS else []
    said += [f"{old} is now {new}" for new, old in plan.renamed.items() if new not in changed]
    for what, paths in (("new", plan.created), ("removed", plan.removed)):
        if paths:
            said.append(f"{what} variables: {', '.join(map(path_text, sorted(paths)[:_ROWS]))}")
    columns = ("axis", "size", "kept", "dropped, by old position", "new, by new position")
    tables = (Table(columns, shown, frozenset((1, 2))),) if shown else ()
    words = said if said or tables else ["nothing changes"]
    return *tables, *((Words(tuple(words)),) if words else ())


def _sizes(plan: Plan) -> str:
    changed = (plan.named or plan.changed).items()
    found = [f"{name} {axis.before} → {axis.after}" for name, axis in changed if axis.before != axis.after]
    more = f" and {len(found) - 3} more" if len(found) > 4 else ""
    return ", ".join(found[:3] if more else found) + more or "no sizes change"


def _positions(axis: AxisPlan) -> tuple[str, str, str]:
    moved = ", moved" if axis.kept.size and (axis.kept[:-1] > axis.kept[1:]).any() else ""
    return f"{axis.kept.size}{moved}", _ranges(axis.dropped), _ranges(axis.new)


def _ranges(positions: Positions, most: int = 12) -> str:
    """Positions in a few words.

    >>> import numpy as np
    >>> _ranges(np.array([0, 1, 2, 5]))
    '0–2, 5'
    """
    found: list[list[int]] = []
    for each in positions.tolist():
        if found and each == found[-1][1] + 1:
            found[-1][1] = each
        else:
            found.append([each, each])
    words = [str(a) if a == b else f"{a}–{b}" for a, b in found]
    return ", ".join(words if len(words) <= most else [*words[:most], f"… {positions.size} in all"])


def _edits(drawing: Drawing) -> list[str]:
    """Vertices and edges that came and went, in words."""
    names = {box.key: box.rows[-1].remark or box.key for box in drawing.boxes if box.kind != "operation"}
    marks = {box.key: box.rows[-1].mark for box in drawing.boxes}

    def edges(mark: str) -> list[Edge]:
        ends = {"new", "gone"}
        return [
            edge
            for edge in drawing.edges
            if edge.mark == mark
            and edge.source in names
            and edge.target in names
            and not ends & {marks[edge.source], marks[edge.target]}
        ]

    found = []
    for mark, word in (("new", "new"), ("gone", "removed")):
        boxes = [names[key] for key in names if marks[key] == mark]
        if boxes:
            found.append(f"{word}: {', '.join(boxes)}")
        if own := edges(mark):
            found.append(f"{word} edges: {', '.join(f'{names[e.source]} → {names[e.target]}' for e in own)}")
    return found
