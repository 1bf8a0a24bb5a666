"""Which neurons count, in terms of the analysis of a program, from which neurons of the graph count."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp

from naivenas_jax.errors import StructureError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.paths import path_text
from naivenas_jax.sizes.ties import Ties
from naivenas_jax.trace.program.analyse import Analysed, end_axis
from naivenas_jax.trace.program.rebind import mask_of_runs

#: A range of a run of the graph.
Range: TypeAlias = tuple[int, int, int]


def alive_runs(graph: Graph, analysed: Analysed, masks: Mapping[int, jax.Array]) -> dict[int, jax.Array]:
    """For each run of an analysis that lies on neurons with a mask, its mask.

    Args:
      graph: the network.
      analysed: its computation, traced and analysed.
      masks: for runs of the graph, shape (neurons,), bool: which of them count.

    Raises:
      StructureError: names an axis whose neurons cannot be told apart in the computation.
    """
    ties, found = graph.ties, dict[int, tuple[Range, ...]]()
    for what, axis, other in _pairs(graph, analysed):
        if ties.plain(ties.axes[axis]).isdisjoint(masks):
            continue
        if other is None:
            raise _cannot(axis, what, "it does not lie on an axis of neurons there")
        try:
            matched = dict(
                _matched(ties, _whole_ranges(ties, ties.axes[axis]), analysed.ties, analysed.ties.axes[other], masks)
            )
        except StructureError as error:
            raise _cannot(axis, what, str(error)) from error
        for run, ranges in matched.items():
            if ties.plain(r for r, _, _ in ranges).isdisjoint(masks):
                continue
            if run in analysed.ties.fixed:
                raise _cannot(axis, what, analysed.ties.fixed[run])
            if found.setdefault(run, ranges) != ranges:
                raise _cannot(axis, what, "it is tied to neurons that are others in the graph")
    return {run: _mask_of_ranges(ties, masks, ranges) for run, ranges in found.items()}


def _mask_of_ranges(ties: Ties, masks: Mapping[int, jax.Array], ranges: Collection[Range]) -> jax.Array:
    """Shape (neurons,), bool: which neurons of some ranges of runs count."""
    parts = [(mask_of_runs(ties, masks, (run,)), start, stop) for run, start, stop in ranges]
    return jnp.concatenate(
        [jnp.ones(stop - start, bool) if mask is None else mask[start:stop] for mask, start, stop in parts]
    )


def _whole_ranges(ties: Ties, row: Sequence[int]) -> list[Range]:
    """The runs of an axis, each from its first neuron to its last."""
    return [(run, 0, ties.run_sizes[run]) for run in row]


def _cannot(axis: str, what: str, why: str) -> StructureError:
    return StructureError(
        f"{axis!r} differs between members, and cannot be masked: of {what}, {why}. Give it one size in all members, "
        "or put those that differ in it into different populations."
    )


def _pairs(graph: Graph, analysed: Analysed) -> Iterator[tuple[str, str, str | None]]:
    """The dimensions of variables and inputs that lie on an axis of the graph: what, the axis, that of the analysis."""
    for path, leaf in graph.ties.leaves.items():
        other = analysed.ties.leaves.get(path)
        for dim, axis in enumerate(leaf.axes):
            if axis is not None and other is not None:
                yield f"dimension {dim} of {path_text(path)}", axis, other.axes[dim]
    for number, vertex in enumerate(graph.inputs):
        axis = end_axis("input", number)
        if axis in analysed.ties.axes:
            yield f"input {vertex.name!r}", vertex.name, axis


def _matched(
    ties: Ties, left: list[Range], other: Ties, other_row: Sequence[int], masks: Collection[int]
) -> Iterator[tuple[int, tuple[Range, ...]]]:
    """For each run of the analysis on an axis the ranges of runs of the graph that lie at its place.

    Args:
      ties: of the graph.
      left: the axis in the graph; used up.
      other: the ties that the analysis found.
      other_row: the axis in the analysis.
      masks: the runs of the graph that have masks.

    Raises:
      StructureError: if the analysis finds factors where the graph has none, or others.
    """
    for run in other_row:
        ranges = _taken(left, other.run_sizes[run])
        if run not in other.products:
            yield run, ranges
        elif not ties.plain(r for r, _, _ in ranges).isdisjoint(masks):
            for row, own in zip(other.products[run], _factors(ties, ranges, other, run), strict=True):
                if own is not None:
                    yield from _matched(ties, own, other, row, masks)


def _factors(ties: Ties, ranges: tuple[Range, ...], other: Ties, run: int) -> list[list[Range] | None]:
    """The factors of a product of the analysis in the graph; None where neurons of the graph do not depend on it."""
    sizes = [other.length(row) for row in other.products[run]]
    rows = ties.products.get(ranges[0][0], ()) if len(ranges) == 1 else ()
    if [ties.length(row) for row in rows] == sizes:
        return [_whole_ranges(ties, row) for row in rows]
    block = _repeated(ranges, math.prod(sizes[:-1]))
    if block is None:
        raise StructureError("it is taken apart into factors in another way than the graph says")
    return [*(None for _ in sizes[:-1]), block]


def _repeated(ranges: tuple[Range, ...], times: int) -> list[Range] | None:
    """What ranges consist of, ``times`` times over: a flatten has the channels at each position. None: they do not."""
    length = len(ranges) // times
    block = ranges[:length]
    return list(block) if length and block * times == ranges else None


def _taken(left: list[Range], count: int) -> tuple[Range, ...]:
    """The first ``count`` neurons of some ranges, which are removed from them."""
    taken = []
    while count:
        run, start, stop = left.pop(0)
        end = min(stop, start + count)
        if end < stop:
            left.insert(0, (run, end, stop))
        taken.append((run, start, end))
        count -= end - start
    return tuple(taken)
