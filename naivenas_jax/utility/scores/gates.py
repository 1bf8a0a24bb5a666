"""How a loss would change if neurons were switched off: derivatives by gates, from weights and their gradients.

Put a gate m_c, of value 1, on every neuron c where weights read it. What is gated is linear in the weights that read
it, so that gating the neuron is the same as gating those weights, and

    d loss / d m_c  =  sum over positions and examples of  activation * d loss / d activation
                    =  sum over the entries w of all weights that read c of  w * d loss / d w .

The right side (of complex weights its real part) needs nothing but gradients by parameters, which training computes
anyway. Neurons that no weight reads are gated where they are made: there the sum goes over the entries of the weight
and bias that make them, and the activation is the one before any activation function.

Where a weight is a function f of the stored array (``softplus(w)``), the sum goes over the entries of f: gates are put
on the weight itself while the network is evaluated (`gated`). If there is nothing but the gradient by w, it is
f(w) / f'(w) * d loss / d w, which says nothing of entries where f' = 0.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Shaped

from naivenas_jax.checks import require_mapping
from naivenas_jax.dataflow.gate_labels import Labels
from naivenas_jax.dataflow.gated import with_gates
from naivenas_jax.errors import UtilityError, VariablesError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.structure import Structure
from naivenas_jax.paths import Path, path_text
from naivenas_jax.sizes.ties import Ties
from naivenas_jax.transfer.variables import as_given, flat, nested
from naivenas_jax.typing import Array, PyTree, Variables
from naivenas_jax.utility.tied import class_count, class_numbers, run_numbers


@dataclass(frozen=True, eq=False)
class Gate:
    """A dimension of a variable whose entries gates switch off, or two that have a gate for each combination.

    Attributes:
      path: the variable.
      dims: the dimensions, in ascending order.
      classes: for each position on them the number of the class that is gated; -1 where none is.
      made: whether the neurons are gated where they are made.
    """

    path: Path
    dims: tuple[int, ...]
    classes: Int[np.ndarray, ...]
    made: bool = False


@lru_cache(maxsize=16)
def gates(graph: Graph) -> tuple[Gate, ...]:
    """Where neurons are switched off: where weights read them, else where they are made."""
    ties = graph.ties
    readers = [_reader(ties, path, d, axis) for path, d, axis in _dims(ties, "in") if _is_weight(ties, path)]
    read = np.zeros(class_count(ties), bool)
    for gate in readers:
        read[gate.classes] = True
    makers = []
    modules: dict[Path, np.ndarray] = {}  # the neurons that the weights of a module make
    for path, _, axis in _dims(ties, "out"):
        if _is_weight(ties, path):
            made = modules.setdefault(path[1:-1], np.zeros(class_count(ties), bool))
            made[class_numbers(ties, axis)] = True
    for path, d, axis in _dims(ties, "out"):
        own = class_numbers(ties, axis)
        gated = ~read[own] & (modules[path[1:-1]][own] if path[1:-1] in modules else False)
        if gated.any():
            makers.append(Gate(path, (d,), np.where(gated, own, -1), made=True))
    return (*readers, *makers)


def _reader(ties: Ties, path: Path, dim: int, axis: str) -> Gate:
    """The gates where a weight reads neurons.

    A grouped convolution reads the dimension of one group, and which group that is follows from what an entry makes:
    gates are put on the combinations of both.
    """
    made = [(d, own) for other, d, own in _dims(ties, "out") if other == path]
    for d, own in made if len(made) == 1 else ():
        if (groups := _groups(ties, ties.axes[axis], ties.axes[own])) is not None:
            classes = np.repeat(groups, ties.size(own) // len(groups), axis=0)  # (outputs, inputs of a group)
            return Gate(path, *(((d, dim), classes) if d < dim else ((dim, d), classes.T)))
    return Gate(path, (dim,), class_numbers(ties, axis))


def _groups(ties: Ties, read: tuple[int, ...], made: tuple[int, ...]) -> Int[np.ndarray, "groups inputs"] | None:
    """The classes that the groups of a convolution read; None where a weight with these runs is no grouped convolution.

    It makes all combinations of groups and outputs, and there are combinations of the same groups and what it reads.
    """
    factors = ties.products.get(made[0], ()) if len(made) == 1 else ()
    inputs = [run for run, product in ties.products.items() if factors and product == (factors[0], read)]
    return run_numbers(ties, inputs[:1]).reshape(ties.length(factors[0]), -1) if inputs else None


def _dims(ties: Ties, role: Literal["in", "out"]) -> list[tuple[Path, int, str]]:
    """All dimensions of variables in this role, with their axes."""
    return [
        (path, d, axis)
        for path, leaf in ties.leaves.items()
        for d, (axis, own) in enumerate(zip(leaf.axes, leaf.roles, strict=True))
        if axis is not None and own == role
    ]


def _is_weight(ties: Ties, path: Path) -> bool:
    """Whether a variable stands between neurons, and is no bias or scale of them."""
    return ties.leaves[path].new is None


def gate_derivatives(
    graph: Graph, params: Variables, grads: Variables, without: Collection[Path] = ()
) -> Float[jax.Array, " classes"]:
    """The derivative of the loss by the gate of each class. Works under ``jax.jit``.

    Args:
      graph: the network.
      params: its variables, or one collection of them (``variables["params"]``).
      grads: the gradients of the loss by them, of the same structure.
      without: variables that are left out.

    Raises:
      VariablesError: if a weight or its gradient is not there.
      UtilityError: if gradients by a variable do not say what the weight that it is a part of contributes.
    """
    weights, slopes = _by_path(params, "params"), _by_path(grads, "grads")
    totals = jnp.zeros(class_count(graph.ties))
    for gate in gates(graph):
        if gate.path in without:
            continue
        weight, slope = _find(weights, gate.path, "params"), _find(slopes, gate.path, "grads")
        shape, sizes = jnp.shape(weight), gate.classes.shape
        if shape != jnp.shape(slope) or tuple(shape[d] for d in gate.dims) != sizes:
            raise VariablesError(
                f"{path_text(gate.path)} has shape {shape}, its gradient {jnp.shape(slope)}, and dimension "
                f"{gate.dims[0]} has {sizes[0]} neurons in the graph. All have to agree: after a mutation take "
                "the new graph, variables and gradients."
            )
        products = _product(_effective(graph.ties, gate.path, weights), slope, totals.dtype)
        sums = products.sum([d for d in range(products.ndim) if d not in gate.dims])
        totals = totals.at[np.maximum(gate.classes, 0)].add(jnp.where(gate.classes >= 0, sums, 0.0))
    return totals


def computed_weights(graph: Graph) -> tuple[Path, ...]:
    """The variables that become weights by a function."""
    return tuple(path for path, leaf in graph.ties.leaves.items() if leaf.weight is not None)


def holds_weight(ties: Ties, path: Path) -> bool:
    """Whether the entries of a variable stand for those of a weight."""
    weight = ties.leaves[path].weight
    return weight is None or weight.holds


def followed_weights(graph: Graph) -> tuple[Path, ...]:
    """The variables whose gates follow them to the weights that they become: gradients by them do not say enough.

    These are all, if some weight is a function of variables; and those that make neurons by what reads them elsewhere.
    """
    if any(leaf.weight is not None for leaf in graph.ties.leaves.values()):
        return tuple(dict.fromkeys((*computed_weights(graph), *(gate.path for gate in gates(graph)))))
    every = dict.fromkeys(gate.path for gate in gates(graph))
    return tuple(path for path in every if makes_by_reading(graph.ties, path))


def makes_by_reading(ties: Ties, path: Path) -> bool:
    """Whether a weight makes neurons on the dimensions on which it reads them elsewhere, as a tied embedding does."""
    roles = ties.leaves[path].roles
    return roles.count("in") > 1 and "out" not in roles


def gated(graph: Graph, paths: Collection[Path], values: Float[jax.Array, " classes"]) -> Callable[..., PyTree]:
    """``graph.apply`` with a gate on every neuron where weights made of these variables read it.

    Args:
      graph: the network.
      paths: the variables.
      values: the gate of each class.
    """
    labels = {path: own for path, own in _labels(graph).items() if path in paths and holds_weight(graph.ties, path)}

    def apply(variables: Variables, *inputs: Array, **kwargs: Any) -> PyTree:
        arrays = flat(variables)
        own = {path: arrays[path] for path in labels if path in arrays}
        asked, data = Structure.split((inputs, kwargs))
        structures: list[Structure] = []  # of what is returned, constants among it

        def run(given: Mapping[Path, Array], *data: Array) -> list[Any]:
            args, named = asked.join(data)
            made = graph.apply(as_given(nested({**arrays, **given}), variables), *args, **named)
            structure, returned = Structure.split(made)
            structures[:] = [structure]
            return returned

        returned = with_gates(run, own, labels, values, data)
        return structures[0].join(returned)

    return apply


@lru_cache(maxsize=16)
def _labels(graph: Graph) -> dict[Path, list[Labels]]:
    """The classes on each variable with gates. Those that may not change have no scores, and no gates."""
    ties, found = graph.ties, dict[Path, list[Labels]]()
    free = np.zeros(class_count(ties) + 1, bool)  # one more, for -1
    for run in range(len(ties.run_sizes)):
        free[ties.starts[run] : ties.starts[run + 1]] = not ties.plain((run,)) <= ties.fixed.keys()
    for gate in gates(graph):
        numbers = np.where(free[gate.classes], gate.classes, -1).astype(np.int32)
        runs = frozenset((np.searchsorted(ties.starts, numbers[numbers >= 0], "right") - 1).tolist())
        if runs:
            found.setdefault(gate.path, []).append(
                Labels(numbers, gate.dims, runs, frozenset([gate.path]), made=gate.made)
            )
    return found


def _effective(ties: Ties, path: Path, arrays: Mapping[Path, Array]) -> Array:
    """What stands for a variable in sums of products with its gradient: 0 if another variable stands for both."""
    weight, own = ties.leaves[path].weight, _find(arrays, path, "params")
    if makes_by_reading(ties, path):
        raise UtilityError(
            f"{path_text(path)} makes neurons by the entries that read them elsewhere (a tied embedding), and the "
            "gradient by it is of both. Use nas.taylor, which evaluates the network with gates."
        )
    if weight is None or (weight.switches and weight.linear):
        return own
    if not weight.holds:
        return jnp.zeros_like(own)
    known = {each: arrays.get(each, arrays.get(each[1:])) for each in ties.leaves}
    given = {each: array for each, array in known.items() if array is not None}
    found = weight.value_and_slope(given) if weight.switches else None
    if found is None:
        raise UtilityError(
            f"{path_text(path)} is a part of a weight that is no function of its entries one by one, in their places "
            "(a softmax, a stack, a slice of a shift), so that gradients by it do not say what the weight's entries "
            "contribute. Use nas.taylor, which evaluates the network with gates."
        )
    value, slope = found
    return jnp.where(slope == 0, 0.0, value / jnp.where(slope == 0, 1.0, slope))


def _product(
    weight: Shaped[Array, "*shape"], slope: Shaped[Array, "*shape"], dtype: np.dtype
) -> Float[jax.Array, "*shape"]:
    """What each entry contributes; with slopes as jax.grad gives them, ``d loss = Re(slope * d weight)``."""
    wide = jnp.result_type(dtype, weight, slope)
    product = jnp.asarray(weight, wide) * jnp.asarray(slope, wide)
    return product.real.astype(dtype)


def _by_path(tree: PyTree, what: str) -> dict[Path, Array]:
    """The arrays of variables, or of a branch of them, which may be any pytree of several arrays."""
    if jax.tree_util.treedef_is_leaf(jax.tree.structure(tree)):
        require_mapping(tree, what, VariablesError)
    return flat(tree)


def _find(arrays: Mapping[Path, Array], path: Path, what: str) -> Array:
    """A variable among variables, or among the parameters alone."""
    for spelled in (path, path[1:]):
        if spelled in arrays:
            return arrays[spelled]
    raise VariablesError(
        f"{what} has no {path_text(path)}, which reads neurons of the graph. Pass variables or variables['params'], "
        "and gradients of the same structure."
    )
