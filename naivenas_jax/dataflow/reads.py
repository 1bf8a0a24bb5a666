"""Which activations weights read: everything that a variable is contracted with, in any function of a network.

Nothing is evaluated, and nothing has to be known of layers: hand-written and imported networks are read alike. What
happens inside loops (``scan``, ``while``, ``cond``) is out of sight.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from naivenas_jax.dataflow.rearranged import Rearranged, rearrangements
from naivenas_jax.dataflow.tape import Step, Tape
from naivenas_jax.paths import Path
from naivenas_jax.typing import Variables


class Read(NamedTuple):
    """One dimension of an activation that a variable is contracted over.

    Of a convolution with g groups, the dimension has g times as many entries as the variable reads: the i-th group of
    them is read by the i-th group of the entries that the variable makes.

    Attributes:
      value: the number of the activation on the tape.
      dim: the dimension of the activation.
      path: the variable, which may have been rearranged and scaled.
      over: the dimension of the variable.
      groups: the number of groups.
      makes: the dimension of the variable that lies on the features of the result; None except for groups.
    """

    value: int
    dim: int
    path: Path
    over: int
    groups: int = 1
    makes: int | None = None


def reads_of(tape: Tape, variables: Variables) -> list[Read]:
    """Every activation that a variable is contracted with, in the order of evaluation.

    >>> import jax.numpy as jnp
    >>> from naivenas_jax.dataflow.tape import record
    >>> variables = {"w": jnp.ones((2, 3))}
    >>> tape = record(lambda variables, x: jnp.tanh(x) @ (5 * variables["w"].T), variables, [jnp.ones((7, 3))])
    >>> [(tape.steps[tape.born[read.value]].eqn.primitive.name, *read[1:4]) for read in reads_of(tape, variables)]
    [('tanh', 1, ('w',), 1)]
    """
    known = rearrangements(tape, variables)
    return [read for step in tape.steps for read in _reads(step, known)]


def _reads(step: Step, known: Mapping[int, Rearranged]) -> Iterator[Read]:
    if step.eqn.primitive.name == "dot_general":
        contracted, _ = step.eqn.params["dimension_numbers"]
        for side, number in enumerate(step.operands):
            if (own := known.get(number)) is not None:
                for mine, theirs in zip(contracted[side], contracted[1 - side], strict=True):
                    if (over := own.lying_on(mine)) is not None:
                        yield Read(step.operands[1 - side], theirs, own.path, over)
    elif step.eqn.primitive.name == "conv_general_dilated" and (own := known.get(step.operands[1])) is not None:
        numbers, groups = step.eqn.params["dimension_numbers"], step.eqn.params["feature_group_count"]
        over, makes = own.lying_on(numbers.rhs_spec[1]), own.lying_on(numbers.rhs_spec[0])
        if over is not None:
            yield Read(step.operands[0], numbers.lhs_spec[1], own.path, over, groups, makes if groups > 1 else None)
