"""Constants with an entry per neuron: tables of positions, masks, centres, fixed filters, statistics of channels.

A constant is computed from neither variables nor inputs, at the sizes that the model was traced with. Where it meets
something that is no constant, each of its dimensions gets neurons of its own, which the rules of primitives tie to
those that it meets. The frame keeps them as `Entries`; there the constant is cut when the program is evaluated with
other sizes. What is computed from constants alone is computed at the sizes of the trace, and cut where it is used.

Where constants meet nothing but variables, a weight of 0 stays one if they are factors, masks that choose between a
weight and 0, or multiplied as matrices. What they are put together with in other ways may have any number of neurons
only if it is never contracted (`Value.added`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from naivenas_jax.jaxpr.elementwise_primitives import ELEMENTWISE
from naivenas_jax.jaxpr.interpret import Equation
from naivenas_jax.sizes.vector import Vector
from naivenas_jax.trace.program.frame import Entries, Frame
from naivenas_jax.trace.program.value import Dim, Value

#: ``rule(eqn, operands, number)``: the dimensions on which an operand that is a constant has neurons.
_EntriesRule: TypeAlias = Callable[[Equation, Sequence[Value], int], Collection[int]]


def with_entries(
    new: Callable[[int], Vector], frame: Frame, eqn: Equation, operands: Sequence[Value]
) -> Sequence[Value]:
    """The operands of an equation, with neurons on the dimensions of constants; the frame gets to know them.

    Args:
      new: makes neurons.
      frame: the frame of the equation.
      eqn: the equation.
      operands: what is known of its operands.
    """
    rule = _RULES.get(eqn.primitive.name)
    fixed = [number for number, value in enumerate(operands) if value.constant and None in value.dims]
    if rule is None or not fixed or all(value.constant for value in operands):
        return operands
    found = list(operands)
    for number in fixed:
        value, shape = operands[number], eqn.invars[number].aval.shape
        wanted = rule(eqn, operands, number)
        dims = tuple(
            new(n) if n and dim is None and d in wanted else None  # where nothing is, there are no neurons
            for d, (dim, n) in enumerate(zip(value.dims, shape, strict=True))
        )
        if any(dim is not None for dim in dims):
            frame.constants.setdefault(eqn, {})[number] = Entries(dims, _reads(eqn, operands, number))
            found[number] = replace(frame.operand(eqn, number), added=_added(eqn, operands, number, dims))
    return found


def _beside(eqn: Equation, operands: Sequence[Value], number: int) -> Collection[int]:
    """Elementwise: the dimensions on which something else has neurons, or has nothing of its own."""
    shapes = [atom.aval.shape for atom in eqn.invars]
    weights = all(value.weight for value in operands)
    found = []
    for d, n in enumerate(shapes[number]):
        others = [v for i, v in enumerate(operands) if i != number and shapes[i] and shapes[i][d] == n]
        if weights:
            take = any(value.dims[d] is not None and value.origin(d) for value in others)
        else:
            take = any(value.dims[d] is not None for value in others) or (n > 1 and all(v.constant for v in others))
        found += [d] if take else []
    return found


def _added(eqn: Equation, operands: Sequence[Value], number: int, dims: Sequence[Dim]) -> frozenset[Vector]:
    """The neurons of a constant, if a weight is put together with it so that 0 does not stay 0."""
    weights = all(value.weight for value in operands) and eqn.primitive.name in ELEMENTWISE
    return frozenset(dim for dim in dims if dim and weights and not _keeps_zero(eqn, operands, number))


def _keeps_zero(eqn: Equation, operands: Sequence[Value], number: int) -> bool:
    """Whether an elementwise function of weights and a constant is 0 where the weights are."""
    name = eqn.primitive.name
    if name == "select_n":
        return all(_is_zero(value) for value in operands[1:] if value.constant)
    return name == "mul" or (name == "div" and number == 1)


def _is_zero(value: Value) -> bool:
    """Whether all entries of a constant are known to be 0."""
    known = value.known and (value.known.number or value.known)
    return known is not None and not np.any(known.array)


def _dot(eqn: Equation, operands: Sequence[Value], number: int) -> Collection[int]:
    """Where the other operand has neurons; and what is made of activations."""
    other = operands[1 - number]
    over, batch = eqn.params["dimension_numbers"]
    met = {own: theirs for pair in (over, batch) for own, theirs in zip(pair[number], pair[1 - number], strict=True)}
    if other.weight:
        return [own for own, theirs in met.items() if other.dims[theirs] is not None and other.origin(theirs)]
    shape = eqn.invars[number].aval.shape
    return [d for d, n in enumerate(shape) if (other.dims[met[d]] is not None if d in met else n > 1)]


def _conv(eqn: Equation, operands: Sequence[Value], number: int) -> Collection[int]:
    """The channels of a kernel."""
    spec, shape = eqn.params["dimension_numbers"], eqn.invars[1].aval.shape
    made, read = spec.rhs_spec[:2]
    image = operands[0]
    if number == 0 or image.weight:
        return ()
    reads = image.dims[spec.lhs_spec[1]] is not None and (shape[read] > 1 or eqn.params["feature_group_count"] == 1)
    return [d for d, take in ((made, shape[made] > 1), (read, reads)) if take]


def _concatenated(eqn: Equation, operands: Sequence[Value], number: int) -> Collection[int]:
    """Where another operand, which is an activation, has neurons; along the concatenation, too."""
    others = [value for i, value in enumerate(operands) if i != number and not value.weight]
    return [d for d in range(len(operands[number].dims)) if any(value.dims[d] is not None for value in others)]


def _written(eqn: Equation, operands: Sequence[Value], number: int) -> Collection[int]:
    """What is written into an activation, or written over by one."""
    array, update = (0, 2) if eqn.primitive.name.startswith("scatter") else (0, 1)
    if number not in (array, update) or operands[array + update - number].weight:
        return ()
    return _wide(eqn, operands, number)


def _looked_up(eqn: Equation, operands: Sequence[Value], number: int) -> Collection[int]:
    """The dimensions of a table that are taken whole, wherever it is read."""
    if number != 0 or all(value.weight for value in operands):
        return ()
    indexed: Sequence[int] = ()
    if eqn.primitive.name == "gather":
        numbers = eqn.params["dimension_numbers"]
        indexed = (*numbers.start_index_map, *numbers.operand_batching_dims)
    whole = enumerate(zip(eqn.invars[0].aval.shape, eqn.params["slice_sizes"], strict=True))
    return [d for d, (n, taken) in whole if n == taken > 1 and d not in indexed]


def _carried(eqn: Equation, operands: Sequence[Value], number: int) -> Collection[int]:
    """What a loop begins with, and rows beside layers; its other operands meet what they meet in the body."""
    params = eqn.params
    if eqn.primitive.name == "while":
        carried = range(params["cond_nconsts"] + params["body_nconsts"], len(operands))
    else:
        carried = range(params["num_consts"], params["num_consts"] + params["num_carry"])
        if number >= carried.stop:  # beside stacked layers it has a row for each
            return [0] if any(value.weight and value.origin(0) for value in operands[carried.stop :]) else []
    return _wide(eqn, operands, number) if number in carried else ()


def _wide(eqn: Equation, operands: Sequence[Value], number: int) -> Collection[int]:
    """All dimensions of more than one entry, beside activations."""
    if all(value.weight for value in operands):
        return ()
    return [d for d, n in enumerate(eqn.invars[number].aval.shape) if n > 1]


def _reads(eqn: Equation, operands: Sequence[Value], number: int) -> frozenset[int]:
    """The dimensions on which a constant reads the neurons of an activation, as weights do."""
    if eqn.primitive.name == "dot_general" and not operands[1 - number].weight:
        return frozenset(eqn.params["dimension_numbers"][0][number])
    if eqn.primitive.name == "conv_general_dilated":
        return frozenset([eqn.params["dimension_numbers"].rhs_spec[1]])
    return frozenset()


_RULES: Mapping[str, _EntriesRule] = {
    **dict.fromkeys(ELEMENTWISE, _beside),
    "stack": _beside,
    "dot_general": _dot,
    "conv_general_dilated": _conv,
    "concatenate": _concatenated,
    **dict.fromkeys(["dynamic_update_slice", "scatter"], _written),
    **dict.fromkeys([f"scatter-{how}" for how in ("add", "sub", "mul", "min", "max")], _written),
    **dict.fromkeys(["gather", "dynamic_slice"], _looked_up),
    **dict.fromkeys(["scan", "while"], _carried),
    "custom_vjp_call": _wide,
}
