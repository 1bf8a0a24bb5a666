"""How far the outputs of a changed network are from those of the original, and which examples are held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from naivenas_jax.align.axis_plan import NEW
from naivenas_jax.dataflow.thinning import HELD_OUT
from naivenas_jax.errors import PlanError, VariablesError
from naivenas_jax.fit.network.data import Data
from naivenas_jax.fit.network.network import Network
from naivenas_jax.graph.evaluation.batches import Batch
from naivenas_jax.mutate.result.mutation import Mutation
from naivenas_jax.transfer.take import HostArray
from naivenas_jax.typing import Array, Variables

#: For each batch the outputs of a network, in the order of its output vertices.
MadeOutputs: TypeAlias = list[list[HostArray]]
#: Positions of neurons, or all of them.
Neurons: TypeAlias = Int[np.ndarray, " neurons"] | slice


def made_outputs(network: Network, variables: Variables, data: Data) -> MadeOutputs:
    """What a network makes of each batch; a number has one neuron."""
    compiled = jax.jit(network.outputs)
    return [[np.atleast_1d(np.asarray(array)) for array in compiled(variables, *inputs)] for inputs in data]


def held_out(
    batches: Sequence[Sequence[Array]], fewest: int = 2, whole: bool = False, enough: float = np.inf
) -> list[Bool[np.ndarray, " examples"]] | None:
    """For each batch which of its examples are held out, one in four or more; a single entry: all of them, or none.

    An example is an entry of the first dimension, if that of all inputs and outputs of a batch is the same and at least
    4. Where that is so for less than half of all examples, an example is a whole batch.

    Args:
      batches: the inputs and outputs of every batch.
      fewest: so many batches there are at least where whole ones are held out.
      whole: whether an example is a whole batch in any case.
      enough: where one in four examples is more than this, one in more of them, but still some of every batch.

    Returns:
      None, if examples do not lie along one first dimension, and batches are fewer.
    """
    firsts = [{np.shape(array)[:1] for array in batch} for batch in batches]
    numbers = [max((size for (size,) in first - {()}), default=1) for first in firsts]
    divided = [not whole and len(first) == 1 and min(first) >= (HELD_OUT,) for first in firsts]
    if 2 * sum(n for n, own in zip(numbers, divided, strict=True) if own) >= sum(numbers):
        pairs = zip(numbers, divided, strict=True)
        sizes = [n for n, own in zip(numbers, divided, strict=True) if own]
        every = max(HELD_OUT, min([*sizes, int(sum(sizes) / enough)]))
        return [_of_batch(n, sizes, every) if own else np.array([False]) for n, own in pairs]
    number = np.arange(len(batches))
    found = [np.array([own]) for own in number % HELD_OUT == min(HELD_OUT, len(number)) - 1]
    return None if len(batches) < fewest else found


def _of_batch(number: int, sizes: Sequence[int], every: int) -> Bool[np.ndarray, " examples"]:
    """Which examples of a batch are held out: one in so many, and more, so that a little smaller batch keeps as many.

    Whatever is evaluated on the others is then compiled once for both.
    """
    found = np.asarray(np.arange(number) % every == every - 1)
    near = min(size for size in sizes if number - every < size <= number)
    found[np.flatnonzero(~found)[near - near // every :]] = True
    return found


class Distances(NamedTuple):
    """How far a network is from the original, on every example.

    Attributes:
      squares: the mean over outputs of the squared error of an output relative to its variance; see `WantedOutputs`.
      choices: how often the largest neuron is another one, the mean over outputs and positions.
    """

    squares: Float[np.ndarray, " examples"]
    choices: Float[np.ndarray, " examples"]


@dataclass(frozen=True, eq=False)
class WantedBatch:
    """A batch, and what the original makes of it.

    Attributes:
      inputs: the batch.
      wanted: for each output that is compared, its values in the original, of the neurons that both networks have.
    """

    inputs: Batch
    wanted: tuple[HostArray, ...]


@dataclass(frozen=True, eq=False)
class WantedOutputs:
    """The outputs of the original on all batches, and the distance of another network from them.

    The distance is the mean over outputs of the squared error of an output relative to its variance,

        mean |y - y'|^2 / mean |y - mean(y)|^2,

    over examples and the neurons that both networks have: 0 for the original, 1 for a network that makes nothing but
    the mean of every neuron.

    Attributes:
      batches: the batches.
      kept: for each output vertex which neurons of the changed network are compared; None: it holds whole numbers,
        and is not compared.
      sources: the same neurons in the original.
      variances: of each output that is compared, over all examples and neurons.
      by_example: whether examples lie along the first dimension of all inputs and outputs that are compared.
    """

    batches: tuple[WantedBatch, ...]
    kept: tuple[Neurons | None, ...]
    sources: tuple[Neurons | None, ...]
    variances: tuple[float, ...]
    by_example: bool

    @classmethod
    def of(cls, mutation: Mutation, data: Data, made: MadeOutputs) -> WantedOutputs:
        """What the network before a mutation makes, of the neurons that are left.

        Args:
          mutation: the mutation.
          data: the batches.
          made: for each batch the outputs of the network before the mutation, as `made_outputs` gives them.

        Raises:
          PlanError: if no output of it can be compared, since all are whole numbers.
          VariablesError: if an output is not finite.
        """
        compared = [jnp.issubdtype(array.dtype, jnp.inexact) for array in made[0]]
        if not any(compared):
            raise PlanError("All outputs of the network are whole numbers, of which none is nearer than another.")
        pairs = [
            _compared(mutation, vertex.name) if own else None
            for vertex, own in zip(mutation.graph.outputs, compared, strict=True)
        ]
        wanted = [
            tuple(array[..., pair[0]] for array, pair in zip(batch, pairs, strict=True) if pair is not None)
            for batch in made
        ]
        examples = [np.shape(inputs[0])[:1] for inputs in data]
        return cls(
            batches=tuple(map(WantedBatch, data, wanted)),
            kept=tuple(None if pair is None else pair[1] for pair in pairs),
            sources=tuple(None if pair is None else pair[0] for pair in pairs),
            variances=tuple(_variance([batch[i] for batch in wanted], examples) for i in range(sum(compared))),
            by_example=all(
                {np.shape(array)[:1] for array in (*inputs, *batch)} == {first}
                for inputs, batch, first in zip(data, wanted, examples, strict=True)
            ),
        )

    def aims(self, made: Sequence[Array]) -> tuple[Array, ...]:
        """What is compared of the outputs of the original."""
        return tuple(array[..., own] for array, own in zip(made, self.sources, strict=True) if own is not None)

    def held_out(self) -> list[Bool[np.ndarray, " examples"]]:
        """For each batch which of its examples are held out, one in four; a single entry: all of them, or none.

        Raises:
          VariablesError: if there is one batch, whose examples do not lie along one first dimension.
        """
        found = held_out([(*batch.inputs, *batch.wanted) for batch in self.batches])
        if found is None:
            firsts = sorted({np.shape(array)[:1] for array in (*self.batches[0].inputs, *self.batches[0].wanted)})
            raise VariablesError(
                f"Some examples are held out, to tell when to stop. Give batches of at least {HELD_OUT} examples along "
                "the first dimension of all inputs and outputs, or several batches; found one whose arrays have the "
                f"first dimensions {firsts}."
            )
        return found

    def squared_errors(self, made: Sequence[Array], wanted: Sequence[Array]) -> list[Float[Array, " examples"]]:
        """For each output that is compared the mean squared error of every example, relative to its variance.

        Args:
          made: the outputs of the changed network.
          wanted: those of the original that are compared.
        """
        pairs = [(jnp.atleast_1d(array), kept) for array, kept in zip(made, self.kept, strict=True) if kept is not None]
        return [
            jnp.square(jnp.abs(_real(array[..., kept]) - _real(aim))).reshape(aim.shape[0], -1).mean(1) / variance
            for (array, kept), aim, variance in zip(pairs, wanted, self.variances, strict=True)
        ]

    def other_choices(self, made: Sequence[Array], wanted: Sequence[Array]) -> list[Float[Array, " examples"]]:
        """For each output that is compared how often, for every example, another neuron is the largest.

        That is what becomes of logits in the end. Of an output of complex numbers, or without several neurons, it is 0.

        Args:
          made: the outputs of the changed network.
          wanted: those of the original that are compared.
        """
        pairs = [(array, kept) for array, kept in zip(made, self.kept, strict=True) if kept is not None]
        return [
            (array[..., kept].argmax(-1) != aim.argmax(-1)).reshape(aim.shape[0], -1).mean(1)
            if aim.ndim > 1 and not jnp.iscomplexobj(aim)
            else jnp.zeros(jnp.shape(aim)[:1] or (1,))
            for (array, kept), aim in zip(pairs, wanted, strict=True)
        ]

    def distances(self, network: Network, variables: Variables) -> Float[np.ndarray, " examples"]:
        """The distance of a network on every example, whose mean is that over all of them; see `WantedOutputs`."""
        return self.compared(network, variables).squares

    def compared(self, network: Network, variables: Variables) -> Distances:
        """How far a network is from the original on every example; see `Distances`.

        Where examples do not lie along the first dimension of everything, there is one distance for a batch.
        """

        def errors(variables: Variables, inputs: Batch, wanted: Sequence[Array]) -> Float[Array, "2 examples"]:
            made = network.outputs(variables, *inputs)
            both = self.squared_errors(made, wanted), self.other_choices(made, wanted)
            found = [one if self.by_example else [own.mean(keepdims=True) for own in one] for one in both]
            return jnp.stack([jnp.stack(one).mean(0) for one in found])

        compiled = jax.jit(errors)
        found = [np.asarray(compiled(variables, batch.inputs, batch.wanted), np.float64) for batch in self.batches]
        return Distances(*np.concatenate(found, 1))


def _compared(mutation: Mutation, name: str) -> tuple[Neurons, Neurons]:
    """Which neurons of an output are compared: in the original, and in the changed network.

    Of an output that stays as it is everything is, also where its last dimension is not one of neurons: a model may
    return one number for each example, and batches have as many of these as they like.
    """
    axis = mutation.plan.axes.get(name)
    if axis is None or not axis.changed:
        return slice(None), slice(None)
    return axis.source[axis.source != NEW], np.flatnonzero(axis.source != NEW)


def _real(array: Array) -> Array:
    """In single precision at least."""
    return jnp.asarray(array, jnp.promote_types(jnp.result_type(array), jnp.float32))


def _variance(arrays: Sequence[HostArray], examples: Sequence[tuple[int, ...]]) -> float:
    """The variance of the neurons of an output about their means, over all examples; of a constant, its square.

    Args:
      arrays: the output on every batch.
      examples: the first dimension of the inputs of every batch.

    Raises:
      VariablesError: if the output is not finite.
    """
    one_each = all(array.shape == own for array, own in zip(arrays, examples, strict=True))  # number for each example
    alike = len({array.shape[-1] for array in arrays}) == 1
    rows = [np.asarray(array).reshape(-1, array.shape[-1] if alike and not one_each else 1) for array in arrays]
    every = np.concatenate([row.astype(np.complex128 if np.iscomplexobj(row) else np.float64) for row in rows])
    if not np.isfinite(every).all():
        raise VariablesError("The original network makes outputs on these batches that are not finite.")
    if not every.size:
        raise VariablesError("The batches hold no examples.")
    square, variance = float(np.mean(np.abs(every) ** 2)), float(np.mean(np.abs(every - every.mean(0)) ** 2))
    return variance if variance > 1e-12 * square else square or 1.0
