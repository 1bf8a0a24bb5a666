"""Queries of another scale, so that a model that divides by the root of its query size computes what the graph does.

A graph goes on to divide by the root of the size that it was imported with, ``q . k / sqrt(old)``. The user's class
takes the size that it finds, and computes ``q . k / sqrt(new)``. With queries that are multiplied by
``sqrt(new / old)``, which is folded into the kernel and the bias that make them, it computes the same. Which entries of
which variables make queries is proposed here, likeliest first: by the neurons that two activations are contracted over,
by name, and by position in a kernel that makes queries, keys and values. Whether it is right is seen when the model is
compared with the graph.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from naivenas_jax.paths import Path
from naivenas_jax.sizes.ties import Ties
from naivenas_jax.trace.model.imported_op import ImportedOp
from naivenas_jax.trace.program.analyse import Analysed
from naivenas_jax.transfer.variables import as_given, flat, nested
from naivenas_jax.typing import Array, Shape, Variables

#: Some runs of neurons, in order.
_Row = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Rescaling:
    """Factors of variables.

    Attributes:
      factors: by path, an array that is broadcast to the variable.
    """

    factors: Mapping[Path, np.ndarray]

    def __call__(self, variables: Variables) -> Variables:
        """The variables, multiplied."""
        multiplied = nested({path: self._times(path, array) for path, array in flat(variables).items()})
        given: Variables = as_given(multiplied, variables)
        return given

    def _times(self, path: Path, array: Array | Shape) -> Array | Shape:
        if path not in self.factors or isinstance(array, jax.ShapeDtypeStruct):
            return array
        factor = self.factors[path]
        product = array * (factor if isinstance(array, np.ndarray) else jnp.asarray(factor, jnp.float32))
        result: Array = product.astype(array.dtype)
        return result


@dataclass(frozen=True)
class _Maker:
    """Variables of one module that make queries or keys.

    Attributes:
      rank: how likely they make queries; the smallest first.
      masks: by path, where its entries do: the dimension, and a mask along it.
    """

    rank: tuple[int, ...]
    masks: Mapping[Path, tuple[int, np.ndarray]]


#: So many ways to tell queries from keys are tried.
_MOST_WAYS = 4


def query_rescalings(op: ImportedOp) -> list[Rescaling]:
    """Ways to make up for query sizes that changed; none if there are none.

    Args:
      op: the imported model in the mutated graph.
    """
    was, now = op.model.base.ties, op.ties
    changed = [row for row in _contracted(op.model.base) if was.length(row) != now.length(row)]
    makers = {row: list(_makers(row, op, now)) for row in changed}
    ways = min(_MOST_WAYS, max(map(len, makers.values()), default=0))
    found = []
    for way in range(ways):
        factors: dict[Path, np.ndarray] = {}
        for row, own in makers.items():
            if own:
                factor = math.sqrt(now.length(row) / was.length(row))
                for path, (dim, mask) in own[min(way, len(own) - 1)].masks.items():
                    shape = [1] * len(op.shapes[path])
                    shape[dim] = -1
                    along = np.where(mask, factor, 1.0).reshape(shape)
                    factors[path] = factors.get(path, np.ones(())) * along
        found.append(Rescaling(factors))
    return found


def _contracted(base: Analysed) -> list[_Row]:
    """The neurons that two activations are contracted over."""
    rows: dict[_Row, None] = {}
    for frame in base.frame.every():
        for eqn in frame.jaxpr.eqns:
            if eqn.primitive.name != "dot_general":
                continue
            (over, _), _ = eqn.params["dimension_numbers"]
            left, right = (frame.read(atom) for atom in eqn.invars)
            dims = [left.dims[d] for d in over if not (left.weight or right.weight)]
            rows.update(dict.fromkeys(base.rows[dim] for dim in dims if dim is not None))
    return list(rows)


def _makers(row: _Row, op: ImportedOp, now: Ties) -> Iterator[_Maker]:
    """The variables that make some neurons, for each module and each time that they occur, queries first."""
    found: dict[tuple[Path, int, int], dict[Path, tuple[int, np.ndarray]]] = {}
    reads: set[tuple[Path, int]] = set()
    for path, leaf in op.model.base.ties.leaves.items():
        for dim, (axis, role) in enumerate(zip(leaf.axes, leaf.roles, strict=True)):
            if axis is None or role != "out":
                continue
            times = _occurrences(now.axes[axis], row, now)
            for number in range(int(times.max(initial=-1)) + 1):
                kind = _kind(path)
                found.setdefault((path[:-1], kind, number), {})[path] = dim, times == number
                if "in" in leaf.roles:
                    reads.add((path[:-1], kind))
    makers = [
        _Maker((kind, number, int((module, kind) in reads)), masks) for (module, kind, number), masks in found.items()
    ]
    yield from sorted(makers, key=lambda maker: maker.rank)


def _kind(path: Path) -> int:
    """What the name of a variable, or else of its modules, tells: 0 a query, 2 a key, 1 neither."""
    for name in reversed(path):
        for kind, pattern in ((0, _QUERY), (2, _KEY)):
            if pattern.search(name.lower()):
                return kind
    return 1


_QUERY = re.compile(r"quer|(?:^|[_\W])(?:w|b|to|proj)?q(?:$|[_\W\d])|^q(?:proj|norm|kernel|bias)")
_KEY = re.compile(r"key|(?:^|[_\W])(?:w|b|to|proj)?k(?:$|[_\W\d])|^k(?:proj|norm|bias)")


def _occurrences(axis: Sequence[int], row: _Row, ties: Ties) -> np.ndarray:
    """For each neuron on an axis, the how manieth occurrence of ``row`` it belongs to; -1: it belongs to none.

    On a product these are the neurons that are combinations with a neuron of the row. Where another factor has been cut
    into parts (queries, keys and values), each part is an occurrence.
    """
    found, count, i = [np.zeros(0, int)], 0, 0
    while i < len(axis):
        if tuple(axis[i : i + len(row)]) == row:
            found.append(np.full(ties.length(row), count))
            count, i = count + 1, i + len(row)
            continue
        own = np.full(ties.run_sizes[axis[i]], -1)
        if (factors := ties.products.get(axis[i])) is not None:
            numbers = [_occurrences(factor, row, ties) for factor in factors]
            own = _combined([n if n.max(initial=-1) >= 0 else None for n in numbers], factors, ties)
        found.append(np.where(own >= 0, own + count, -1))
        count = max(count, int(found[-1].max(initial=-1)) + 1)
        i += 1
    return np.concatenate(found)


def _combined(numbers: Sequence[np.ndarray | None], factors: Sequence[_Row], ties: Ties) -> np.ndarray:
    """The occurrences on a product, given those on its factors; None: the row does not lie on a factor."""
    sizes = [ties.length(factor) for factor in factors]
    if all(number is None for number in numbers):
        return np.full(math.prod(sizes), -1)
    parts = [
        np.repeat(np.arange(len(factor)), [ties.run_sizes[run] for run in factor]) if number is None else number
        for number, factor in zip(numbers, factors, strict=True)
    ]
    grid = np.stack([axis.ravel() for axis in np.meshgrid(*parts, indexing="ij")], axis=1)
    _, combined = np.unique(grid, axis=0, return_inverse=True)
    there = (grid >= 0).all(axis=1)
    result = np.full(len(grid), -1)
    result[there] = np.unique(combined.ravel()[there], return_inverse=True)[1]
    return result
