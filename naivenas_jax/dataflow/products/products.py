"""Products that are contracted over neurons and both of whose factors come from weights, and nothing else.

The logits of an attention are such products: the features of a query meet those of a key, head by head. With A = X B
the queries of a head and C = Z D its keys, B and D the columns of two weights, A C^T stays the same if B is multiplied
by any invertible matrix T, and D by T^-T. The values of a head, summed over words, meet the weight that reads them in
such a product too, as does whatever a weight makes and another one reads with nothing in between.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from naivenas_jax.dataflow.contraction import Contraction
from naivenas_jax.dataflow.products.columns import Columns, Numbers, Use, columns_of, entries_of, makers_of
from naivenas_jax.dataflow.rearranged import Rearranged, rearrangements
from naivenas_jax.dataflow.tape import Step, Tape, Values
from naivenas_jax.dataflow.variable_uses import AddedVariable, VariableUse
from naivenas_jax.paths import Path
from naivenas_jax.transfer.variables import flat
from naivenas_jax.typing import Array, Variables

#: Rows of more neurons are left alone: their sums would take long.
MOST = 1024


@dataclass(frozen=True, eq=False)
class Factor:
    """One of the two factors: rows of R neurons that are contracted with rows of the other.

    Its rows fall into groups, such as heads. Rows of one group only meet rows of the same group of the other factor.

    Attributes:
      path: the weight that makes it, or that it is.
      entries: for the weight, and for each variable that is added to what it makes, the positions in the flattened
        variable: shape (blocks, entries, R). A block holds what makes the rows of one head.
      block_groups: for each block its group.
      rows: the rows of each group.
      number: of the activation on the tape; None: it is the weight.
      order: its dimensions, those that are contracted last.
      centred: whether its mean does not count, since something is added to the product.
    """

    path: Path
    entries: Mapping[Path, Int[np.ndarray, "P _ R"]]
    block_groups: Int[np.ndarray, " P"]
    rows: Int[np.ndarray, "G n"]
    number: int | None = None
    order: tuple[int, ...] = ()
    centred: bool = False

    def by_group(self, known: Values, arrays: Mapping[Path, Array]) -> Array:
        """The rows of each group, shape (G, n, R), of activations and variables."""
        entries = self.entries[self.path]
        length = entries.shape[-1]
        if self.number is None:
            return arrays[self.path].ravel()[entries.reshape(-1, length)[self.rows]]
        rows = known[self.number].transpose(self.order).reshape(-1, length)[self.rows]
        return rows - rows.mean(1, keepdims=True) if self.centred else rows


@dataclass(frozen=True, eq=False)
class Product:
    """A product.

    Attributes:
      step: the step that contracts them.
      factors: what is contracted.
    """

    step: int
    factors: tuple[Factor, Factor]

    @property
    def paths(self) -> tuple[Path, Path]:
        """The two weights."""
        left, right = self.factors
        return left.path, right.path


def products_of(tape: Tape, variables: Variables, uses: Sequence[VariableUse]) -> list[Product]:
    """The products on a tape both of whose factors are columns of weights that are used for nothing else.

    Args:
      tape: the tape.
      variables: variables of the shapes that it has.
      uses: how it uses them.
    """
    made = {use.step: use for use in uses if isinstance(use, Contraction)}
    shifted = frozenset(use.contraction.step for use in uses if isinstance(use, AddedVariable))
    finding = _Finding(tape, made, shifted, rearrangements(tape, variables), flat(variables))
    found = (finding.product(position) for position in candidates(tape))
    return [product for product in found if product is not None]


def candidates(tape: Tape) -> Iterator[int]:
    """The steps that contract activations which contractions make, with one another or with variables."""
    for position, step in enumerate(tape.steps):
        own = [number for number in step.operands if number in tape.born]
        if step.eqn.primitive.name == "dot_general" and own and all(makers_of(tape, number) for number in own):
            yield position


class _HeldColumns(NamedTuple):
    """Columns, and the use of them that is looked at."""

    columns: Columns
    use: Use


class _Side(NamedTuple):
    """One side of a product.

    Attributes:
      path: the weight.
      block: the block of each row and run, shape (batches, rows, runs): runs of neurons may not be mixed with others.
      entries: as `Factor.entries`.
      number: as `Factor.number`.
      order: as `Factor.order`.
    """

    path: Path
    block: Int[np.ndarray, "batches rows runs"]
    entries: Mapping[Path, Int[np.ndarray, "P _ R"]]
    number: int | None = None
    order: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class _Finding:
    """The tape, its contractions by their steps, those to which a variable is added, and what its variables are."""

    tape: Tape
    made: Mapping[int, Contraction]
    shifted: frozenset[int]
    rearranged: Mapping[int, Rearranged]
    arrays: Mapping[Path, Array]
    _columns: dict[int, Columns] = field(default_factory=dict)

    def product(self, position: int) -> Product | None:
        """The product of a step; None: others take part in it, or the same columns on both sides."""
        held = [self._held(position, side) for side in range(2)]
        counts = {_runs(self.tape.steps[position], own.use) for own in held if own is not None}
        runs = max(counts, default=0)
        reader = self.made.get(position)
        if 0 in counts or not runs or counts - {1, runs} or held.count(None) != (reader is not None):
            return None
        sides = [None if own is None else self._side(position, own, runs) for own in held]
        if reader is not None:
            sides[held.index(None)] = self._reader(reader, runs)
        left, right = sides
        if left is None or right is None or _overlap(left, right):
            return None
        groups = _groups(*(own.block.transpose(0, 2, 1).reshape(-1, own.block.shape[1]) for own in (left, right)))
        factors = []
        for own, group in zip((left, right), groups, strict=True):
            blocks = own.entries[own.path]
            of_rows = np.repeat(group, blocks.shape[1]) if own.number is None else group[own.block.ravel()]
            rows = _rows_of_groups(of_rows)
            if rows is None:
                return None
            centred = own.number is not None and position in self.shifted
            factors.append(Factor(own.path, own.entries, group, rows, own.number, own.order, centred))
        first, second = factors
        return Product(position, (first, second))

    def _held(self, position: int, side: int) -> _HeldColumns | None:
        """The columns on one side of a product; None: it is no activation that one contraction makes."""
        for maker in makers_of(self.tape, self.tape.steps[position].operands[side]):
            if maker in self.made:
                columns = self._columns.setdefault(maker, columns_of(self.tape, self.made[maker]))
                for use in columns.uses:
                    if (use.step, use.side) == (position, side):
                        return _HeldColumns(columns, use)
        return None

    def _side(self, position: int, held: _HeldColumns, runs: int) -> _Side | None:
        """A side whose rows are columns of a weight; None: they are not columns of their own."""
        step, (columns, use) = self.tape.steps[position], held
        order, total = _order(step, use)
        rows = use.numbers.transpose(order).reshape(-1, total // runs)
        batches = int(np.prod([use.numbers.shape[d] for d in step.eqn.params["dimension_numbers"][1][use.side]]))
        _, first, block = np.unique(rows[:, 0], return_index=True, return_inverse=True)
        blocks, block = rows[first], block.ravel()
        if blocks.shape[1] > MOST or (rows != blocks[block]).any() or len(np.unique(blocks)) != blocks.size:
            return None
        if (use.kin[blocks] != use.kin[blocks[:, :1]]).any():
            return None
        if any(np.isin(blocks, other.numbers).any() for other in columns.uses if other is not use):
            return None
        entries, number = self._entries(columns, blocks), step.operands[use.side]
        shaped = block.reshape(batches, -1, runs)
        return None if entries is None else _Side(columns.made.path, shaped, entries, number, order)

    def _reader(self, reader: Contraction, runs: int) -> _Side | None:
        """The side of a weight that reads an activation; None: it is used for something else too."""
        entries = reader.entries(np.shape(self.arrays[reader.path]))
        groups, inputs, outputs = entries.shape
        if inputs % runs or not self._read_once(reader.path):
            return None
        blocks = entries.reshape(groups * runs, inputs // runs, outputs).transpose(0, 2, 1)
        return _Side(reader.path, np.arange(groups * runs).reshape(groups, 1, runs), {reader.path: blocks})

    def _entries(self, columns: Columns, blocks: Int[np.ndarray, "P R"]) -> dict[Path, Int[np.ndarray, "P _ R"]] | None:
        """The entries of the variables that make these columns; None: they make others as well."""
        path = columns.made.path
        every = columns.made.entries(np.shape(self.arrays[path]))
        groups, inputs, outputs = every.shape
        group, column = np.divmod(blocks, outputs)
        if (group != group[:, :1]).any() or not self._read_once(path):
            return None  # columns of other groups read other inputs
        found = {path: every[group[:, 0, None, None], np.arange(inputs)[:, None], column[:, None]]}
        for added in columns.added:
            if not np.isin(added.numbers, blocks).any():
                continue
            variable = self.rearranged.get(added.number)
            if variable is None or variable.scaled or variable.path in found or not self._read_once(variable.path):
                return None
            shape = np.shape(self.arrays[variable.path])
            entries = entries_of(variable, added, groups * outputs, shape)
            if entries is None or len(np.unique(entries[blocks])) != blocks.size or (entries[blocks] < 0).any():
                return None
            found[variable.path] = entries[blocks][:, None]
        return found

    def _read_once(self, path: Path) -> bool:
        """Whether a variable is read by one step alone, and not returned."""
        returned = {self.rearranged[number].path for number in self.tape.results if number in self.rearranged}
        return sum(path in step.paths for step in self.tape.steps) == 1 and path not in returned


def _order(step: Step, use: Use) -> tuple[tuple[int, ...], int]:
    """The dimensions of one side of a product, those that are contracted last, and the product of their sizes."""
    contracted, batch = (dims[use.side] for dims in step.eqn.params["dimension_numbers"])
    free = [d for d in range(use.numbers.ndim) if d not in (*contracted, *batch)]
    return (*batch, *free, *contracted), int(np.prod([use.numbers.shape[d] for d in contracted]))


def _runs(step: Step, use: Use) -> int:
    """How many runs of columns, all of one length, have been mixed alike; 0: they lie in no such order."""
    order, total = _order(step, use)
    kin = use.kin[use.numbers.transpose(order).reshape(-1, total)[0]]
    count = len(np.unique(kin))
    if total % count or (kin.reshape(count, -1) != kin[:: total // count, None]).any():
        return 0
    return count


def _overlap(left: _Side, right: _Side) -> bool:
    """Whether the same entries of a weight are on both sides."""
    return left.path == right.path and bool(np.intersect1d(left.entries[left.path], right.entries[right.path]).size)


def _groups(left: Numbers, right: Numbers) -> tuple[Int[np.ndarray, " P"], Int[np.ndarray, " Q"]]:
    """The group of each block on the left and on the right: blocks that meet in some batch are of one group."""
    count = int(left.max()) + 1
    ends = np.concatenate([(left * 0 + right[:, :1] + count).ravel(), (right * 0 + left[:, :1]).ravel()])
    pairs = np.unique(np.stack([np.concatenate([left.ravel(), right.ravel() + count]), ends], -1), axis=0)
    group = np.arange(count + int(right.max()) + 1)
    for one, other in pairs:
        group[group == group[other]] = group[one]
    numbers = np.unique(group, return_inverse=True)[1]
    return numbers[:count], numbers[count:]


def _rows_of_groups(groups: Int[np.ndarray, " rows"]) -> Int[np.ndarray, "G n"] | None:
    """The rows of each group; None: not all have the same number."""
    counts = np.bincount(groups)
    return np.argsort(groups, kind="stable").reshape(len(counts), -1) if (counts == counts[0]).all() else None
