"""What the outputs of a network become without some neurons, if the weights that read these are re-fitted.

The network keeps its shape: entries that read neurons are set to zero, so that it is compiled once for all trials. It
is evaluated in pieces, and only from the piece on in which the first variable is another one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from naivenas_jax.fit.network.column_map import Shift
from naivenas_jax.fit.network.data import Data
from naivenas_jax.fit.network.network import KEPT, Network, Run
from naivenas_jax.fit.regression.elimination import Reader
from naivenas_jax.fit.regression.reduced_columns import ReducedColumns
from naivenas_jax.graph.evaluation.batches import Batch
from naivenas_jax.paths import Path
from naivenas_jax.transfer.variables import flat, nested
from naivenas_jax.typing import Array, Variables
from naivenas_jax.utility.scores.gates import Gate, computed_weights, gated, gates
from naivenas_jax.utility.tied import class_count

#: So many examples are evaluated, if that takes no more multiply-accumulates for all trials together than this: half a
#: minute. Otherwise fewer, and as many as these at least.
ENOUGH, AFFORDED, FEWEST = 128, 3e11, 8
#: Steps of the tape in each piece.
PIECE = 32


class Refit(NamedTuple):
    """A weight that is re-fitted without some of the neurons that it reads.

    Attributes:
      path: the weight.
      entries: for each entry of its matrices the place in the flattened weight.
      matrices: its matrices, as the readers have them.
      readers: which rows are which neurons', and the inverse covariance of what is read; one for each group.
      means: of the columns that are read.
      reduced: what is read in place of all columns; None: all.
      shift: what is added to what the weight makes, so that its mean can stay; None: nothing is.
    """

    path: Path
    entries: Int[np.ndarray, "G K M"]
    matrices: Float[np.ndarray, "G L M"]
    readers: Sequence[Reader]
    means: Float[np.ndarray, "G L"]
    reduced: ReducedColumns | None
    shift: Shift | None

    def without(self, classes: Int[np.ndarray, " some"], arrays: Mapping[Path, Array]) -> dict[Path, np.ndarray]:
        """The variables that change without some neurons."""
        changes = np.zeros(self.matrices.shape)
        for change, reader, matrix in zip(changes, self.readers, self.matrices, strict=True):
            rows = [block.rows.ravel() for block in reader.only(classes).blocks]
            if rows:
                change += change_without(reader.inverse, matrix, np.unique(np.concatenate(rows)))
        if not changes.any():
            return {}
        spread = changes if self.reduced is None else self.reduced.spread(changes, self.entries.shape[1])
        found = {self.path: _added(arrays[self.path], self.entries, spread)}
        if self.shift is not None:
            moved = -self.shift.sign * np.einsum("gl,glm->gm", self.means, changes)
            found[self.shift.path] = _added(arrays[self.shift.path], self.shift.entries, moved)
        return found


def affordable(trials: int, operations: float) -> int:
    """On how many examples so many trials are made.

    Args:
      trials: how many.
      operations: the multiply-accumulates of one evaluation of the whole network on one example.
    """
    spent = trials * operations / 2  # on average a network is evaluated from its middle on
    return int(min(ENOUGH, max(FEWEST, AFFORDED / max(spent, 1.0))))


def change_without(
    inverse: Float[np.ndarray, "L L"], matrix: Float[np.ndarray, "L M"], rows: Int[np.ndarray, " r"]
) -> Float[np.ndarray, "L M"]:
    """What is added to a matrix where some of its rows become 0, and the others are fitted to what it made.

    Args:
      inverse: the inverse covariance of what the matrix reads.
      matrix: the matrix.
      rows: the rows that become 0.
    """
    return -inverse[:, rows] @ np.linalg.solve(inverse[np.ix_(rows, rows)], matrix[rows])


def _added(array: Array, entries: Int[np.ndarray, ...], values: Float[np.ndarray, ...]) -> np.ndarray:
    found = np.array(array, np.promote_types(array.dtype, np.float32)).ravel()
    found[entries] += values
    return found.reshape(np.shape(array)).astype(array.dtype)


@dataclass(frozen=True, eq=False)
class Trial:
    """A network whose outputs are looked at without some neurons, on a few examples.

    Attributes:
      network: the network.
      arrays: its variables.
      begun: for each batch the network as it is now, at the ends of some pieces.
      wanted: what it makes of them as it is, the outputs that are real or complex numbers.
      computed: weights that are functions of variables, which are not set to zero where the function is not.
    """

    network: Network
    arrays: Mapping[Path, Array]
    begun: list[list[Run]]
    wanted: list[list[np.ndarray]]
    computed: tuple[Path, ...]

    @classmethod
    def of(cls, network: Network, variables: Variables, data: Data, examples: int = ENOUGH) -> Trial:
        """The network as it is now, on so many examples from all over the data."""
        arrays = {path: jnp.asarray(array) for path, array in flat(variables).items()}
        own = {gate.path for gate in _switched(network)}
        whole = {path for path in own if not jnp.issubdtype(arrays[path].dtype, jnp.inexact)}
        computed = tuple(sorted(own & {*computed_weights(network.graph), *whole}))
        found, present, kept = cls(network, arrays, [], [], computed), nested(dict(arrays)), 0
        for batch in data.spread(examples):
            run = Run.start(network, present, batch)
            found.begun.append([run])
            while run.step < len(run.tape.steps):
                run = run.up_to(_next(run), present)
                kept += run.nbytes
                if kept <= KEPT // 4:
                    found.begun[-1].append(run)
            found.wanted.append(_results(run))
        return found

    def change(self, classes: Int[np.ndarray, " some"], refits: Iterable[Refit]) -> float:
        """The mean square by which outputs change without some neurons, relative to their variance.

        Args:
          classes: the neurons.
          refits: the weights that are re-fitted without them.
        """
        changed = dict[Path, Array]()
        for refit in refits:
            changed.update(refit.without(classes, {**self.arrays, **changed}))
        gone = np.isin(np.arange(class_count(self.network.graph.ties) + 1), classes)  # -1 in the place of a class: none
        shut = False
        for gate in _switched(self.network):
            off = gone[gate.classes]
            if off.any() and gate.path in self.computed:
                shut = True
            elif off.any():
                array = changed.get(gate.path, self.arrays[gate.path])
                shape = [size if d in gate.dims else 1 for d, size in enumerate(np.shape(array))]
                changed[gate.path] = np.where(off.reshape(shape), 0, array)
        made = self._gated(changed, classes) if shut else self._outputs(changed)
        each = [_relative(*pair) for pair in zip(zip(*made, strict=True), zip(*self.wanted, strict=True), strict=True)]
        return float(np.mean(each)) if each else np.nan

    def _outputs(self, changed: Mapping[Path, Array]) -> list[list[np.ndarray]]:
        """What is made of every batch with some other variables."""
        variables, found = nested({**self.arrays, **changed}), list[list[np.ndarray]]()
        for begun in self.begun:
            first = begun[0].tape.first_use(changed)
            run = [run for run in begun if run.step <= first][-1]
            while run.step < len(run.tape.steps):
                run = run.up_to(_next(run), variables)
            found.append(_results(run))
        return found

    def _gated(self, changed: Mapping[Path, Array], classes: Int[np.ndarray, " some"]) -> list[list[np.ndarray]]:
        """The same, where the gates of computed weights that read these neurons are shut."""
        values = jnp.ones(class_count(self.network.graph.ties)).at[classes].set(0.0)
        compiled, variables = self.network.compiled(_made, self.network, self.computed), {**self.arrays, **changed}
        return [[np.asarray(a) for a in compiled(nested(variables), values, run.inputs)] for run, *_ in self.begun]


def _next(run: Run) -> int:
    """Where the piece ends that begins here."""
    return min(run.step + PIECE, len(run.tape.steps))


def _results(run: Run) -> list[np.ndarray]:
    """The outputs of real or complex numbers of a network at its end."""
    results = (run.live[number] for number in run.tape.results)
    return [np.asarray(array) for array in results if jnp.issubdtype(jnp.result_type(array), jnp.inexact)]


def _made(
    network: Network,
    computed: Sequence[Path],
    variables: Variables,
    values: Float[jax.Array, " classes"],
    inputs: Batch,
) -> list[Array]:
    """The outputs of real or complex numbers, where some gates are shut."""
    returned = jax.tree.leaves(gated(network.graph, computed, values)(variables, *inputs, **network.kwargs))
    return [array for array in returned if jnp.issubdtype(jnp.result_type(array), jnp.inexact)]


def _switched(network: Network) -> list[Gate]:
    """Where neurons are set to zero: not where they are looked up, since others may be on other batches."""
    looked_up = {path: {*leaf.looked_up} for path, leaf in network.graph.ties.leaves.items()}
    return [gate for gate in gates(network.graph) if not looked_up[gate.path] & {*gate.dims}]


def _relative(made: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> float:
    """The squared change of an output relative to its variance; of one that does not vary, to its square."""
    change, variance, square = (
        sum(float(np.square(np.abs(array)).sum(dtype=np.float64)) for array in arrays)
        for arrays in (
            [own - aim for own, aim in zip(made, wanted, strict=True)],
            [aim - aim.mean(0) if aim.ndim else aim for aim in wanted],
            wanted,
        )
    )
    return change / (variance if variance > 1e-12 * square else square or 1.0)
