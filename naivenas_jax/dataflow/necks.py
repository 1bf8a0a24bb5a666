"""The necks of an output: values through which all of it comes, behind the last variable that is read."""

from __future__ import annotations

from naivenas_jax.dataflow.tape import Tape, Values
from naivenas_jax.jaxpr.interpret import bind
from naivenas_jax.typing import Array


def necks(tape: Tape, result: int) -> list[int]:
    """The necks of a result of a tape, from the result itself backwards, until a variable is read.

    >>> import jax
    >>> from naivenas_jax.dataflow.tape import record
    >>> one = jax.numpy.ones(3)
    >>> tape = record(lambda v, x: jax.nn.softmax(x * v["w"]), {"w": one}, [one])
    >>> [str(tape.steps[tape.born[number]].eqn.primitive) for number in necks(tape, tape.results[0])]
    ['div', 'exp', 'sub', 'mul']
    """
    found, pending = [result], {result}
    for step in reversed(tape.steps):
        if pending.isdisjoint(step.results):
            continue
        if step.paths:
            break
        pending -= set(step.results)
        pending |= {number for number in step.operands if number in tape.born or number in tape.inputs}
        if len(pending) == 1:
            found.append(next(iter(pending)))
    return found


def followed(tape: Tape, neck: int, value: Array, until: int, known: Values) -> Array:
    """What becomes of a later neck, or of the result, if a neck has another value.

    Args:
      tape: the tape.
      neck: the number of the neck.
      value: its value.
      until: the number of what is asked for.
      known: all other values that are read in between and do not depend on the neck.
    """
    changed, leading = {neck: value}, {until}
    between = tape.steps[tape.born.get(neck, -1) + 1 : tape.born.get(until, -1) + 1]
    for step in reversed(between):  # others may read the neck too, on the way to other outputs
        if not leading.isdisjoint(step.results):
            leading.update(step.operands)
    for step in between:
        if not leading.isdisjoint(step.results) and not changed.keys().isdisjoint(step.operands):
            results = bind(step.eqn, [changed[n] if n in changed else known[n] for n in step.operands])
            changed.update(zip(step.results, results, strict=True))
    return changed[until]
