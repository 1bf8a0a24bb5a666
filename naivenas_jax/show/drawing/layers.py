"""Where the items of a directed graph lie: in layers, each below those that it reads, with few crossings.

The steps are those of Sugiyama, Tagawa and Toda ("Methods for visual understanding of hierarchical system structures",
1981): layers by longest paths, points in between where an edge passes a layer, an order within layers by the mean
position of neighbours, and then positions. These are the nearest, in squares, to the mean of the neighbours that keep
the order and the distances, which is an isotonic regression.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

_ACROSS, _DOWN = 18.0, 40.0
#: So many points are laid where edges pass layers. Of more, long edges pass behind the boxes instead.
_POINTS = 20_000
_SWEEPS = 8


@dataclass(frozen=True)
class Item:
    """What is to be placed.

    Attributes:
      width: its width.
      height: its height.
      layer: "first" or "last", if it has to lie there.
    """

    width: float
    height: float
    layer: str = ""


@dataclass(frozen=True)
class Link:
    """One item above another, with where the line begins and ends, to the right of the middle of each."""

    source: int
    target: int
    leaves: float = 0.0
    arrives: float = 0.0


@dataclass(frozen=True)
class Placed:
    """Where everything lies.

    Attributes:
      x: the middle of each item.
      y: the top of each item.
      lines: the points of each link from top to bottom.
      width: the width of all.
      height: the height of all.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]
    lines: tuple[tuple[tuple[float, float], ...], ...]
    width: float
    height: float


def layers(items: Sequence[Item], links: Sequence[Link]) -> list[int]:
    """The layer of each item: below all that it reads, if these come before it.

    >>> layers([Item(1, 1)] * 3, [Link(0, 1), Link(1, 2), Link(0, 2)])
    [0, 1, 2]
    """
    read: dict[int, list[int]] = {}
    for link in links:
        if link.source < link.target:
            read.setdefault(link.target, []).append(link.source)
    start = int(any(item.layer == "first" for item in items))
    found: list[int] = []
    for number, item in enumerate(items):
        least = 0 if item.layer == "first" else start
        found.append(max([least, *(found[source] + 1 for source in read.get(number, ()))]))
    end = max(found, default=0)
    if any(item.layer == "last" and found[i] == end for i, item in enumerate(items)):
        inner = max((f for f, item in zip(found, items, strict=True) if item.layer != "last"), default=-1)
        end = max(end, inner + 1)
    return [end if item.layer == "last" else layer for layer, item in zip(found, items, strict=True)]


def place(items: Sequence[Item], links: Sequence[Link]) -> Placed:
    """Where items and lines lie.

    Args:
      items: in an order in which most read earlier ones.
      links: between them; one that leads up is drawn upwards.

    >>> placed = place([Item(10, 4), Item(20, 4)], [Link(0, 1)])
    >>> placed.x, placed.y
    ((10.0, 10.0), (0.0, 44.0))
    """
    layer = layers(items, links)
    widths = [item.width for item in items]
    chains = _chains(layer, links, widths)
    layer = layer + [layer[link.source] + step for link, own in zip(links, chains, strict=True) for step in _steps(own)]
    rows: list[list[int]] = [[] for _ in range(max(layer, default=-1) + 1)]
    for node, own in enumerate(layer):
        rows[own].append(node)
    above, below = _neighbours(links, chains)
    _order(rows, above, below)
    x = _positions(rows, widths, above, below, len(items))
    heights = [max((items[node].height for node in row if node < len(items)), default=0.0) for row in rows]
    tops = [sum(heights[:i]) + _DOWN * i for i in range(len(rows))]
    y = [tops[layer[i]] + (heights[layer[i]] - item.height) / 2 for i, item in enumerate(items)]
    left = min((x[node] - widths[node] / 2 for node in range(len(widths))), default=0.0)
    x = [each - left for each in x]

    def line(link: Link, chain: Sequence[int]) -> tuple[tuple[float, float], ...]:
        points = [(x[link.source] + link.leaves, y[link.source] + items[link.source].height)]
        for node in chain:
            points += [(x[node], tops[layer[node]]), (x[node], tops[layer[node]] + heights[layer[node]])]
        return (*points, (x[link.target] + link.arrives, y[link.target]))

    lines = tuple(line(*pair) for pair in zip(links, chains, strict=True))
    width = max((x[node] + widths[node] / 2 for node in range(len(widths))), default=0.0)
    return Placed(tuple(x[: len(items)]), tuple(y), lines, width, sum(heights) + _DOWN * max(len(rows) - 1, 0))


def _chains(layer: Sequence[int], links: Sequence[Link], widths: list[float]) -> list[list[int]]:
    """The points at which each link passes a layer; ``widths`` gets the width of each."""
    spans = [max(layer[link.target] - layer[link.source] - 1, 0) for link in links]
    longest = len(layer) if sum(spans) <= _POINTS else 12
    found = []
    for span in spans:
        count = span if span <= longest else 0
        found.append(list(range(len(widths), len(widths) + count)))
        widths += [4.0] * count
    return found


def _steps(chain: Sequence[int]) -> range:
    return range(1, len(chain) + 1)


def _neighbours(
    links: Sequence[Link], chains: Sequence[Sequence[int]]
) -> tuple[dict[int, list[tuple[int, float]]], dict[int, list[tuple[int, float]]]]:
    """For each node those above and those below, with how far to the right of them it would lie straight."""
    above: dict[int, list[tuple[int, float]]] = {}
    below: dict[int, list[tuple[int, float]]] = {}
    for link, chain in zip(links, chains, strict=True):
        nodes = [link.source, *chain, link.target]
        for number, (a, b) in enumerate(pairwise(nodes)):
            leaves = link.leaves if number == 0 else 0.0
            arrives = link.arrives if number == len(chain) else 0.0
            above.setdefault(b, []).append((a, leaves - arrives))
            below.setdefault(a, []).append((b, arrives - leaves))
    return above, below


def _order(
    rows: list[list[int]],
    above: Mapping[int, Sequence[tuple[int, float]]],
    below: Mapping[int, Sequence[tuple[int, float]]],
) -> None:
    """Put the nodes of each layer in an order in which few lines cross."""
    rank = {node: float(i) for row in rows for i, node in enumerate(row)}
    for sweep in range(_SWEEPS):
        near, order = (above, rows) if sweep % 2 == 0 else (below, rows[::-1])
        for row in order:
            mean = {
                node: sum(rank[a] for a, _ in own) / len(own) if (own := near.get(node)) else rank[node] for node in row
            }
            row.sort(key=lambda node: (mean[node], rank[node]))
            rank.update({node: float(i) for i, node in enumerate(row)})


def _positions(
    rows: Sequence[Sequence[int]],
    widths: Sequence[float],
    above: Mapping[int, Sequence[tuple[int, float]]],
    below: Mapping[int, Sequence[tuple[int, float]]],
    points: int,
) -> list[float]:
    """The middle of each node; from number ``points`` on they are points of lines."""
    x = [0.0] * len(widths)
    for row in rows:
        at = 0.0
        for node in row:
            x[node] = at + widths[node] / 2
            at += widths[node] + _ACROSS
    for sweep in range(_SWEEPS + (64 if len(widths) < 1000 else 16)):
        both = sweep >= _SWEEPS
        near, order = (above, rows) if sweep % 2 == 0 else (below, rows[::-1])
        far = below if near is above else above
        for row in order:
            wanted, weights = [], []
            for node in row:
                own = [*near.get(node, ()), *(far.get(node, ()) if both else ())]
                # lines that pass layers, and lines that fork nowhere, are best straight
                pulls = [_pull(node, a, above, below, points) for a, _ in own]
                weights.append(sum(pulls) or 1.0)
                mean = sum(p * (x[a] + shift) for p, (a, shift) in zip(pulls, own, strict=True))
                wanted.append(mean / weights[-1] if own else x[node])
            for node, middle in zip(row, _apart(wanted, [widths[node] for node in row], weights), strict=True):
                x[node] = middle
    for row in rows:  # what is nearly straight becomes straight
        wanted, weights = [], []
        for node in row:
            straight = [x[a] + shift for a, shift in above.get(node, ()) if _pull(node, a, above, below, points) > 1.0]
            wanted.append(straight[0] if straight else x[node])
            weights.append(100.0 if straight else 1.0)
        for node, middle in zip(row, _apart(wanted, [widths[node] for node in row], weights), strict=True):
            x[node] = middle
    return x


def _pull(
    node: int,
    other: int,
    above: Mapping[int, Sequence[tuple[int, float]]],
    below: Mapping[int, Sequence[tuple[int, float]]],
    points: int,
) -> float:
    """How much a line between two nodes ought to be straight."""
    if node >= points and other >= points:
        return 8.0
    upper, lower = (other, node) if any(a == other for a, _ in above.get(node, ())) else (node, other)
    return 6.0 if len(below.get(upper, ())) == 1 and len(above.get(lower, ())) == 1 else 1.0


def _apart(wanted: Sequence[float], widths: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The positions nearest to those that are wanted, in this order and without overlaps.

    >>> _apart([5.0, 5.0], [2.0, 2.0], [1.0, 3.0])
    [-10.0, 10.0]
    """
    offsets, at = [], 0.0
    for number, width in enumerate(widths):
        at += width / 2 if number else 0.0
        offsets.append(at)
        at += width / 2 + _ACROSS
    blocks: list[tuple[float, float, int]] = []  # means of what is wanted, less the offsets; weights; of how many
    for middle, offset, own in zip(wanted, offsets, weights, strict=True):
        mean, weight, count = middle - offset, own, 1
        while blocks and blocks[-1][0] >= mean:
            last, heavy, many = blocks.pop()
            mean, weight, count = (mean * weight + last * heavy) / (weight + heavy), weight + heavy, count + many
        blocks.append((mean, weight, count))
    means = [mean for mean, _, count in blocks for _ in range(count)]
    return [mean + offset for mean, offset in zip(means, offsets, strict=True)]
