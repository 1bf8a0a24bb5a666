"""Gradient descent of all parameters of a network towards the outputs of another, in pieces of batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Bool, Float, Int

from naivenas_jax.fit.last_step import LastStep, last_steps, outputs_around
from naivenas_jax.fit.network.apart import are_apart
from naivenas_jax.fit.network.network import Network
from naivenas_jax.fit.outputs import WantedBatch, WantedOutputs
from naivenas_jax.graph.evaluation.batches import Batch
from naivenas_jax.paths import Path
from naivenas_jax.progress import tracked
from naivenas_jax.transfer.variables import flat, nested
from naivenas_jax.typing import Array, Variables

#: The parameters that are fitted, by path.
Parameters: TypeAlias = dict[Path, Array]
#: So often the examples that are held out are looked at.
LOOKS = 20
#: After so many looks without progress it is over.
PATIENCE = 10
#: A batch is taken in no more pieces than this: updates cost something, whatever few examples they see.
PIECES = 32
#: Sums of relative squares over examples that are smaller than this are rounding.
ROUNDING = 1e-8


class Original(NamedTuple):
    """The network that another one is to compute the same as, with its variables."""

    network: Network
    variables: Variables


@dataclass(frozen=True, eq=False)
class Descent:
    """What trains the parameters of a network.

    Attributes:
      network: the network.
      original: what it is to compute.
      wanted: what the original makes of every batch.
      variables: all variables of the network; those that are not fitted stay as they are here.
      tx: the optimizer, for a number of updates and the error at the start. An update whose gradient is not finite is
        left out.
      size: how many examples an update sees, more in batches of more than `PIECES` times as many; None: a batch.
    """

    network: Network
    original: Original
    wanted: WantedOutputs
    variables: Variables
    tx: Callable[[int, float], optax.GradientTransformation]
    size: int | None

    def best(self, start: Parameters, steps: int, progress: bool | None) -> tuple[Parameters, float, float]:
        """The parameters with the smallest error on what is held out, that error at the start, and in the end.

        Where outputs have last steps that gradients may go around, there are two descents, through them and around
        them. One ends early where half of the looks in a row find nothing better than looks before, the start not
        counted: large steps lead away from it first.
        """
        held_out = self.wanted.held_out()
        others = [~own for own in held_out if not own.all()]
        errors, size = jax.jit(self._errors), None
        if self.size is not None and self._apart(errors, start, held_out):
            rest, looked_at = self._joined([~own for own in held_out]), self._joined(held_out)
            most = max(int(own.sum()) for own in others)
            size = min(most, max(self.size, -(-most // PIECES)))
        else:
            rest, looked_at = self._masked([~own for own in held_out]), self._masked(held_out)
        pieces = _Pieces(rest, size, mixed=size is not None and self._can_be_mixed(rest))
        updates = -(-steps * pieces.number // len(others))
        best, first = start, self._error(errors, start, looked_at)
        tx = optax.apply_if_finite(self.tx(updates, first), max_consecutive_errors=updates + 1)
        around = last_steps(self.network, self._with(start), rest[0].inputs)
        ways = ((), around) if around else ((),)
        smallest, every = np.nan_to_num(first, nan=np.inf), max(1, -(-updates // LOOKS))
        with tracked(range(len(ways) * updates), "refine", progress) as numbers:
            left = iter(numbers)
            for way in ways:
                lowest, since = np.inf, 0
                for number, now in enumerate(self._path(tx, start, way, pieces), 1):
                    next(left)
                    if number % every == 0 or number == updates:
                        found = self._error(errors, now, looked_at)
                        best, smallest = (now, found) if found < smallest else (best, smallest)
                        lowest, since = (found, 0) if found < lowest else (lowest, since + 1)
                    if since == PATIENCE or number == updates:
                        break
        return best, first, smallest

    def _path(
        self, tx: optax.GradientTransformation, start: Parameters, around: Sequence[LastStep], pieces: _Pieces
    ) -> Iterator[Parameters]:
        """The parameters after every update; it has no end."""
        step, now, state = jax.jit(self._step(tx, around)), start, tx.init(start)
        for piece in pieces.in_random_order():
            now, state = step(now, state, piece, self.original.variables)
            yield now

    def _apart(
        self, errors: Callable[..., Array], parameters: Parameters, chosen: Sequence[Bool[np.ndarray, " _"]]
    ) -> bool:
        """Whether the network makes the same of some examples of a batch, whatever the others are."""
        pairs = zip(self.wanted.batches, chosen, strict=True)
        first = next(((batch, own) for batch, own in pairs if own.size > 1 and own.any()), None)
        if first is None:
            return False
        batch, own = first
        among = Examples(batch.inputs, batch.wanted, own.astype(np.float32))
        sums = errors(parameters, among)[:, 0]
        return are_apart(lambda: [*errors(parameters, _taken(batch, own))[:, 0]], [*sums], ROUNDING)

    def _can_be_mixed(self, every: Sequence[Examples]) -> bool:
        """Whether there is something between two examples: words have none."""
        dtypes = [jnp.result_type(array) for own in every for array in own.inputs]
        return self.wanted.by_example and all(jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes)

    def _mixed(self, examples: Examples, variables: Variables) -> Examples:
        """Examples between two, and what the original makes of them."""
        if examples.shares is None:
            return examples
        inputs = tuple(_between(array, examples.shares) for array in examples.inputs)
        wanted = self.wanted.aims(self.original.network.outputs(variables, *inputs))
        return examples._replace(inputs=inputs, wanted=wanted)

    def _masked(self, chosen: Sequence[Bool[np.ndarray, " _"]]) -> list[Examples]:
        """Of every batch the examples that are chosen, where there are some; the others are evaluated as well."""
        pairs = zip(self.wanted.batches, chosen, strict=True)
        return [Examples(batch.inputs, batch.wanted, own.astype(np.float32)) for batch, own in pairs if own.any()]

    def _joined(self, chosen: Sequence[Bool[np.ndarray, " _"]]) -> list[Examples]:
        """The examples that are chosen, those of one shape together."""
        alike: dict[object, list[Examples]] = {}
        pairs = zip(self.wanted.batches, chosen, strict=True)
        for number, (batch, own) in enumerate(pairs):
            if own.any():
                some = _taken(batch, own)
                kinds = tuple((array.shape[1:], str(array.dtype)) for array in (*some.inputs, *some.wanted))
                alike.setdefault(kinds if own.size > 1 else number, []).append(some)
        return [same[0] if len(same) == 1 else _together(same) for same in alike.values()]

    def _error(self, errors: Callable[..., Array], parameters: Parameters, every: Sequence[Examples]) -> float:
        """The error on all these examples together."""
        found = np.array([np.asarray(errors(parameters, one), np.float64) for one in every])  # (batches, outputs, 2)
        sums, counts = np.moveaxis(found.sum(0), -1, 0)
        return float(np.mean(sums / counts))

    def _with(self, parameters: Parameters) -> Variables:
        """All variables, those that are fitted with other values."""
        return nested({**flat(self.variables), **parameters})

    def _errors(
        self, parameters: Parameters, examples: Examples, around: Sequence[LastStep] = ()
    ) -> Float[Array, "outputs 2"]:
        """For each output the sum of the errors of some examples, and how many examples they are.

        Args:
          parameters: the parameters.
          examples: the examples.
          around: the last steps that gradients leave out; see `naivenas_jax.fit.last_step`.
        """
        made = outputs_around(self.network, around, self._with(parameters), examples.inputs)
        found = self.wanted.squared_errors(made, examples.wanted)
        chosen = [jnp.broadcast_to(examples.chosen, own.shape) for own in found]
        sums = [jnp.stack([jnp.where(c > 0, own, 0).sum(), c.sum()]) for own, c in zip(found, chosen, strict=True)]
        return jnp.stack(sums)

    def _step(
        self, tx: optax.GradientTransformation, around: Sequence[LastStep]
    ) -> Callable[..., tuple[Parameters, optax.OptState]]:
        def loss(parameters: Parameters, examples: Examples) -> Array:
            sums, counts = jnp.moveaxis(self._errors(parameters, examples, around), -1, 0)
            return jnp.mean(sums / counts)

        def step(
            parameters: Parameters, state: optax.OptState, examples: Examples, original: Variables
        ) -> tuple[Parameters, optax.OptState]:
            gradients = jax.grad(loss)(parameters, self._mixed(examples, original))
            updates, state = tx.update(gradients, state, parameters)
            return optax.apply_updates(parameters, updates), state

        return step


class Examples(NamedTuple):
    """Examples.

    Attributes:
      inputs: the examples.
      wanted: what the original makes of them.
      chosen: 1 for those that count, and 0 for the others; a single entry: all of them.
      shares: how much of each example is taken, and the rest of another one; None: all of it.
    """

    inputs: Batch
    wanted: tuple[Array, ...]
    chosen: Float[Array, " examples"]
    shares: Float[Array, " examples"] | None = None


def _taken(batch: WantedBatch, own: Bool[np.ndarray, " _"]) -> Examples:
    """Some examples of a batch, without the others; the batch as it is, if there is one entry for all."""
    if own.size == 1:
        return Examples(batch.inputs, batch.wanted, own.astype(np.float32))
    inputs, wanted = (tuple(np.asarray(array)[own] for array in arrays) for arrays in (batch.inputs, batch.wanted))
    return Examples(inputs, wanted, np.ones(own.sum(), np.float32))


def _together(every: Sequence[Examples]) -> Examples:
    """The examples of several batches."""
    inputs, wanted = (
        tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        for parts in ([own.inputs for own in every], [own.wanted for own in every])
    )
    return Examples(inputs, wanted, np.concatenate([own.chosen for own in every]))


@dataclass(frozen=True, eq=False)
class _Pieces:
    """Examples that are gone through over and over, in pieces.

    Attributes:
      every: the examples.
      size: how many are in a piece; None: as many as are in an item of ``every``. So it is where there are fewer.
      mixed: whether half of the examples of a piece are mixed with others of it.
    """

    every: Sequence[Examples]
    size: int | None
    mixed: bool = False

    @property
    def number(self) -> int:
        """How many pieces there are."""
        return sum(max(1, len(own.chosen) // self.size) if self.size else 1 for own in self.every)

    def in_random_order(self) -> Iterator[Examples]:
        """The pieces, each time other ones and in another order, which are the same on every machine."""
        generator = np.random.default_rng(0)
        while True:
            pieces = [piece for i in range(len(self.every)) for piece in self._pieces(i, generator)]
            for number in generator.permutation(len(pieces)):
                i, chosen = pieces[number]
                if chosen is None:
                    yield self.every[i]
                    continue
                shares = np.where(generator.random(len(chosen)) < 0.5, 1.0, generator.random(len(chosen)))
                yield _picked(self.every[i], chosen, shares.astype(np.float32) if self.mixed else None)

    def _pieces(self, i: int, generator: np.random.Generator) -> list[tuple[int, Int[np.ndarray, " piece"] | None]]:
        """Which examples are in each piece; None: all of them."""
        number = len(self.every[i].chosen)
        if self.size is None or number == 1:  # a whole batch
            return [(i, None)]
        order, size = generator.permutation(number), min(number, self.size)
        return [(i, order[start : start + size]) for start in range(0, number - size + 1, size)]


def _picked(
    examples: Examples, chosen: Int[np.ndarray, " piece"], shares: Float[np.ndarray, " piece"] | None
) -> Examples:
    inputs, wanted = (tuple(array[chosen] for array in arrays) for arrays in (examples.inputs, examples.wanted))
    return Examples(inputs, wanted, np.ones(len(chosen), np.float32), shares)


def _between(array: Array, shares: Float[Array, " examples"]) -> Array:
    """Of each example its share, and the rest of the one as far from the end as it is from the beginning."""
    own = shares.reshape(-1, *[1] * (jnp.ndim(array) - 1)).astype(array.dtype)
    return own * array + (1 - own) * array[::-1]
