"""The largest utility within budgets: branch and bound over the sizes, with answers by successive linearisation.

A budget is a sum of products of sizes, so the problem is not convex. For sizes in a box the products are replaced by
their McCormick envelope, which gives a linear program whose optimum no answer in the box can exceed. Where the
envelope is loose the box is split. Answers come from the other side: the counts are linearised at some sizes, the
mixed-integer program solved, and again at what was found, until nothing moves; then whatever still fits is taken back.
The difference of the two is the certified gap.

References:
  G. P. McCormick, Computability of global solutions to factorable nonconvex programs, Mathematical Programming, 1976.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from naivenas_jax.align.answer import Answer, read, scale_of, violations, worth, write_segments
from naivenas_jax.align.envelope import Box, Interval
from naivenas_jax.align.formulate import Formulation, formulate
from naivenas_jax.align.problem import Problem
from naivenas_jax.align.program import NoSolutionError, StoppedError
from naivenas_jax.align.worth import own_best
from naivenas_jax.sizes.row import Row

_SEGMENTS = 32
#: So many boxes are looked at; a number and not a time, so that the answer is the same on every machine.
_BOXES = 120
_GAP = 1e-3
_ROUNDS = 12
#: With no more groups than this, points of the program are taken in whole numbers, and pairs of groups are tried.
_SMALL = 12
#: What an inserted neuron costs, in utilities of the most useful class: none is inserted without need.
_INSERTED = 1e-4


@dataclass(order=True)
class _Box:
    """A part of the space of sizes. ``bound``: no answer in it is worth more (negated, for the heap)."""

    bound: float
    number: int
    sizes: Box = field(compare=False)


class _Search:
    """The best answer so far, and the program that finds better ones."""

    def __init__(self, problem: Problem, time_limit: float | None):
        self.problem = problem
        self.form: Formulation = formulate(problem, time_limit, segment_count=_SEGMENTS)
        self.program, self.envelope = self.form.program, self.form.envelope
        free = [problem.groups[g] for g in self.form.free]
        self.scale = scale_of(free)
        self.focus: list[tuple[int, ...]] = [() for _ in problem.groups]
        self.cost = np.zeros(self.program.size)
        self.multiples = any(row.sense == "multiple of" for row in problem.required)
        #: whether a point must be in whole numbers; else what is not whole can be rounded down
        self.whole = len(free) <= _SMALL or bool(problem.targets or problem.equal) or any(map(_rigid, problem.required))
        self.best: Answer | None = None
        self.value = -math.inf

    def refine(self, *answers: Answer) -> None:
        """The worth is exact at the numbers that answers keep."""
        for answer in answers:
            self.focus = [(*points, int(k)) for points, k in zip(self.focus, answer.kept, strict=True)]
        self.cost = -write_segments(self.problem, self.form, self.focus, self.scale)
        self.cost[self.form.new_columns] = _INSERTED

    def bound(self, box: Box) -> tuple[np.ndarray, float]:
        """A point of the relaxation in a box, and what no answer there can cost less than.

        In whole numbers where sizes are multiples, or no box is left.
        """
        self.envelope.within(self.program, box)
        return self.program.bounded(self.cost, self.multiples or not any(high - low >= 1 for low, high in box.values()))

    def worth(self, answer: Answer) -> float:
        """Of an answer, in utilities of the most useful class."""
        kept = worth([self.problem.groups[g] for g in self.form.free], answer.kept[self.form.free])
        return kept / self.scale - _INSERTED * float(answer.new.sum())

    def offer(self, answer: Answer) -> None:
        """Keep an answer if it is sound, and better than the best so far."""
        if violations(self.problem, answer):
            return
        answer = self._filled(answer)
        if (value := self.worth(answer)) > self.value + 1e-12:
            self.best, self.value = answer, value

    def descend(self, sizes: np.ndarray) -> None:
        """Linearise the counts at some sizes, solve, and again at what was found."""
        self.envelope.within(self.program, self.form.box)
        room = [0.0] * len(self.envelope.polynomials)
        for _ in range(_ROUNDS):
            self.envelope.linearise(self.program, sizes, room)
            try:
                answer = self._answer(self.program.bounded(self.cost, self.whole)[0])
            except NoSolutionError:
                break
            found = self.problem.sizes(answer.kept, answer.new).astype(float)
            excess = [p.at(found) - p.bound for p in self.envelope.polynomials]
            self.offer(answer)
            if all(e <= 0 for e in excess) and np.array_equal(found, sizes):
                break
            room = [max(0.0, r + e) if e > 0 else 0.0 for r, e in zip(room, excess, strict=True)]
            sizes = found
        self.envelope.linearise(self.program, None)

    def _answer(self, x: np.ndarray) -> Answer:
        """Read a point; where it need not be whole, what is not whole is dropped."""
        if not self.whole:
            x = x.copy()
            columns = self.form.kept_columns
            x[columns] = np.floor(x[columns] + 1e-6)
        return Answer(*read(self.form, x))

    def _filled(self, answer: Answer) -> Answer:
        """What was dropped and still fits is taken back, the best for its cost first."""
        while (better := next(self._better(answer), None)) is not None:
            answer = better
        return answer

    def _better(self, answer: Answer) -> Iterator[Answer]:
        """Answers that keep more of one group, or more of one and less of another, and are worth more."""
        moves = sorted(self._moves(answer), key=lambda move: -move[0])
        for _, kept in moves:
            candidate = Answer(kept, answer.new)
            if self._within(candidate) and not violations(self.problem, candidate):
                yield candidate

    def _within(self, answer: Answer) -> bool:
        sizes = self.problem.sizes(answer.kept, answer.new)
        return all(p.at(sizes) <= p.bound for p in self.envelope.polynomials)

    def _moves(self, answer: Answer) -> Iterator[tuple[float, np.ndarray]]:
        """Numbers to keep, with what they gain in worth."""
        free = [int(g) for g in self.form.free]
        up = [(g, n) for g in free for n in self._steps(g) if answer.kept[g] + n <= own_best(self.problem.groups[g])]
        down = [(g, n) for g in free for n in self._steps(g) if answer.kept[g] - n >= 0]
        pairs = ((None, None), *down) if len(free) <= _SMALL else ((None, None),)
        for g, n in up:
            gain = self._gain(answer, g, n)
            for h, m in pairs:
                total = gain + (self._gain(answer, h, -m) if h is not None and m is not None else 0.0)
                if h == g or (total <= 1e-9 * self.scale and h is not None):
                    continue
                kept = answer.kept.copy()
                kept[g] += n
                if h is not None:
                    kept[h] -= m
                yield total, kept

    def _gain(self, answer: Answer, group: int, change: int) -> float:
        worths, kept = self.problem.groups[group].worth, int(answer.kept[group])
        return float(worths[kept + change] - worths[kept])

    def _steps(self, group: int) -> tuple[int, ...]:
        """A single class, a few at once, and as many as multiples ask for."""
        asked = {row.bound for row in self.problem.required if row.sense == "multiple of"}
        counts = set(self.problem.rows[:, [group]].tocoo().data.astype(int).tolist())
        return tuple({1, 8, 64, *(bound // math.gcd(bound, count) for bound in asked for count in counts)})


def _rigid(row: Row) -> bool:
    """Whether rounding down may break a condition: all but bounds of a single size."""
    return row.sense in ("multiple of", "==") or len(row.terms) > 1


def solve_within(problem: Problem, *, time_limit: float | None = None) -> Answer:
    """The best answer within the budgets that is found, with the gap that is proven.

    Exact requests and conditions hold, as in `solve`; relaxed requests come as near as they can where the relaxation
    says how near that is.

    Raises:
      NoSolutionError: if none was found.
      StoppedError: if the time limit, in seconds, strikes before any was found.
    """
    search = _Search(problem, time_limit)
    search.refine()
    bound = math.inf
    try:
        bound = _branch(search)
    except StoppedError:
        if search.best is None:
            raise
    if search.best is None:
        raise NoSolutionError
    gap = max(0.0, bound - search.value) / max(abs(search.value), 1e-12)
    return Answer(search.best.kept, search.best.new, gap if gap > 1e-9 else 0.0)


def _branch(search: _Search) -> float:
    """Look for answers; returns what none can be worth more than."""
    root = search.form.box
    x, least = search.bound(root)
    rows = len(search.problem.present)
    for start in (search.envelope.sizes(x, rows), *_scaled(search)):
        search.descend(start)
    if search.best is None and not search.whole:  # rounded down, something fell below its bound
        search.whole = True
        search.descend(search.envelope.sizes(x, rows))
    if search.best is not None:
        search.refine(search.best)
        x, least = search.bound(root)
    heap, number, points = [_Box(least, 0, root)], 0, search.value
    while heap and number < 2 * _BOXES:
        node = heapq.heappop(heap)
        if -node.bound <= search.value + _GAP * abs(search.value):
            return max(-node.bound, search.value, points)
        try:
            x, _ = search.bound(node.sizes)
        except NoSolutionError:
            continue
        if number < 8 or number % 10 == 0:
            search.descend(search.envelope.sizes(x, rows))
        parts = _split(search, node.sizes, x)
        if not parts:  # a single point
            points = max(points, -node.bound)
            search.offer(Answer(*read(search.form, x)))
        for sizes in parts:
            number += 1
            try:
                bound = max(node.bound, search.bound(sizes)[1])
            except NoSolutionError:
                continue
            if -bound > search.value:
                heapq.heappush(heap, _Box(bound, number, sizes))
    return max([search.value, points, *(-node.bound for node in heap)])


def _scaled(search: _Search) -> Iterator[np.ndarray]:
    """All sizes as the same share of what they are now, which meets the tightest budget."""
    present = search.problem.present.astype(float)
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        fits = all(p.at(np.maximum(1.0, present * middle)) <= p.bound for p in search.envelope.polynomials)
        low, high = (middle, high) if fits else (low, middle)
    yield np.maximum(1.0, present * low)


def _split(search: _Search, box: Box, x: np.ndarray) -> tuple[dict[int, Interval], ...]:
    """Two boxes, split where the envelope is loosest."""
    open_rows = [row for row, (low, high) in box.items() if high - low >= 1]
    if not open_rows:
        return ()
    loose, sizes = search.envelope.loosest(x), search.envelope.sizes(x, len(search.problem.present))
    row = max(open_rows, key=lambda r: (loose.get(r, 0.0), abs(sizes[r] - round(float(sizes[r]))), -r))
    (low, high), at = box[row], sizes[row]
    middle = math.floor(min(max(at, low + 0.2 * (high - low)), high - 0.2 * (high - low)))
    middle = min(max(middle, math.floor(low)), math.ceil(high) - 1)
    return {**box, row: (low, float(middle))}, {**box, row: (middle + 1.0, high)}
