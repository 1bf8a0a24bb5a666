"""Products of two activations that are contracted over neurons, where both come from weights and nothing else.

The logits of an attention are such products: the features of a query meet those of a key, head by head. With A = X B
the queries of a head and C = Z D its keys, B and D the columns of two weights, A C^T stays the same if B is multiplied
by any invertible matrix T, and D by T^-T.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from naivenas_jax.dataflow.contraction import Contraction
from naivenas_jax.dataflow.products.columns import Columns, Numbers, columns_of, entries_of, maker_of
from naivenas_jax.dataflow.rearranged import Rearranged, rearrangements
from naivenas_jax.dataflow.tape import Tape, Values
from naivenas_jax.dataflow.variable_uses import VariableUse
from naivenas_jax.paths import Path
from naivenas_jax.transfer.variables import flat
from naivenas_jax.typing import Array, Variables


@dataclass(frozen=True, eq=False)
class Factor:
    """One of the two activations: rows of R neurons that are contracted with rows of the other.

    Its rows fall into groups, such as heads. Rows of one group only meet rows of the same group of the other factor.

    Attributes:
      path: the weight that makes it.
      entries: for the weight, and for each variable that is added to what it makes, the positions in the flattened
        variable: shape (blocks, entries, R). A block holds what makes the rows of one head.
      block_groups: for each block its group.
      number: of the activation on the tape.
      order: its dimensions, those that are contracted last.
      rows: the rows of each group.
    """

    path: Path
    entries: Mapping[Path, Int[np.ndarray, "P _ R"]]
    block_groups: Int[np.ndarray, " P"]
    number: int
    order: tuple[int, ...]
    rows: Int[np.ndarray, "G n"]

    def by_group(self, known: Values) -> Array:
        """The rows of each group, shape (G, n, R)."""
        length = next(iter(self.entries.values())).shape[-1]
        return known[self.number].transpose(self.order).reshape(-1, length)[self.rows]


@dataclass(frozen=True, eq=False)
class Product:
    """A product of two activations.

    Attributes:
      step: the step that contracts them.
      factors: the activations.
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
    known, finding = dict[int, Columns](), _Finding(tape, rearrangements(tape, variables), flat(variables))
    found = []
    for position in candidates(tape):
        makers = [maker_of(tape, number, made) for number in tape.steps[position].operands]
        if any(maker is None for maker in makers):
            continue
        for maker in makers:
            if maker is not None and maker.step not in known:
                known[maker.step] = columns_of(tape, maker)
        sides = [known[maker.step] for maker in makers if maker is not None]
        if (product := finding.product(position, sides)) is not None:
            found.append(product)
    return found


def candidates(tape: Tape) -> Iterator[int]:
    """The steps that contract two activations, over neurons or anything else."""
    for position, step in enumerate(tape.steps):
        if step.eqn.primitive.name == "dot_general" and all(number in tape.born for number in step.operands):
            yield position


class _Side(NamedTuple):
    """One side of a product.

    Attributes:
      blocks: the columns of each kind of row: shape (blocks, R).
      block: the block of each row, in the batches of the product: shape (batches, rows).
      entries: as `Factor.entries`.
      order: as `Factor.order`.
    """

    blocks: Int[np.ndarray, "P R"]
    block: Int[np.ndarray, "batches rows"]
    entries: Mapping[Path, Int[np.ndarray, "P _ R"]]
    order: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class _Finding:
    """The tape, and what its variables are."""

    tape: Tape
    rearranged: Mapping[int, Rearranged]
    arrays: Mapping[Path, Array]

    def product(self, position: int, columns: Sequence[Columns]) -> Product | None:
        """The product of a step; None: others take part in it, or the same columns on both sides."""
        left, right = (self._side(position, side, own) for side, own in enumerate(columns))
        if left is None or right is None:
            return None
        same = columns[0].made.path == columns[1].made.path
        if same and np.intersect1d(left.blocks, right.blocks).size:
            return None
        groups = _groups(left.block, right.block)
        factors = []
        for side, (own, its_columns, group) in enumerate(zip((left, right), columns, groups, strict=True)):
            rows = _rows_of_groups(group[own.block.ravel()])
            if rows is None:
                return None
            number = self.tape.steps[position].operands[side]
            factors.append(Factor(its_columns.made.path, own.entries, group, number, own.order, rows))
        first, second = factors
        return Product(position, (first, second))

    def _side(self, position: int, side: int, columns: Columns) -> _Side | None:
        """One side of the product of a step; None: its rows are not made by columns of their own."""
        contracted, batch = self.tape.steps[position].eqn.params["dimension_numbers"]
        own = next((use for use in columns.uses if (use.step, use.side) == (position, side)), None)
        if own is None:
            return None
        free = [d for d in range(own.numbers.ndim) if d not in (*contracted[side], *batch[side])]
        order = *batch[side], *free, *contracted[side]
        length = int(np.prod([own.numbers.shape[d] for d in contracted[side]]))
        batches = int(np.prod([own.numbers.shape[d] for d in batch[side]]))
        rows = own.numbers.transpose(order).reshape(-1, length)
        _, first, block = np.unique(rows[:, :1], return_index=True, return_inverse=True)
        blocks = rows[first]
        block = block.ravel()
        if (rows != blocks[block]).any() or len(np.unique(blocks)) != blocks.size:
            return None
        elsewhere = [use.numbers for use in columns.uses if use is not own]
        if any(np.isin(blocks, numbers).any() for numbers in elsewhere):
            return None
        entries = self._entries(columns, blocks)
        return None if entries is None else _Side(blocks, block.reshape(batches, -1), entries, order)

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
