"""The dead-neuron oracle: a shrunk network computes what the original does with the dropped neurons forced to zero.

Neurons are forced to zero where weights read them, since what lies between (a batch normalisation, an activation with
``f(0) != 0``) may turn a zero into something else. The original is masked while it runs, so the oracle shares no code
with the transfer of parameters that it checks.

What a key draws depends on the shape that is drawn. Both networks are run with keys that draw one number for a whole
array, so that networks which draw random numbers (dropout in training) are compared as others are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from naivenas_jax.align.axis_plan import NEW
from naivenas_jax.align.plan import Plan
from naivenas_jax.dataflow.gate_labels import Labels
from naivenas_jax.dataflow.gated import with_gates
from naivenas_jax.errors import OracleError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.model_vertex import outputs_of
from naivenas_jax.graph.source import holds_words
from naivenas_jax.graph.vertex import Vertex
from naivenas_jax.graph.vertices.subgraph import Subgraph
from naivenas_jax.mutate.result.compiled_outputs import compiled
from naivenas_jax.mutate.result.even_draws import even_keys, has_keys, uneven, with_even_keys
from naivenas_jax.mutate.result.inputs_after import inputs_after
from naivenas_jax.paths import Path
from naivenas_jax.transfer.take import placed_like, to_host
from naivenas_jax.transfer.variables import flat
from naivenas_jax.typing import Array, PyTree, Variables


@dataclass(frozen=True)
class Check:
    """What the oracle found.

    Attributes:
      compared: whether the outputs could be compared with the original's.
      reason: why not.
      max_difference: the largest absolute difference of an output that both networks have.
    """

    compared: bool
    reason: str | None = None
    max_difference: float | None = None


def check(
    before: tuple[Graph, Variables],
    after: tuple[Graph, Variables],
    plan: Plan,
    inputs: tuple[Array, ...],
    kwargs: Mapping[str, Any],
    *,
    incomparable: str | None,
    tolerance: float | None,
) -> Check:
    """Compare a changed network with the original whose dropped neurons are forced to zero.

    Args:
      before: the original graph and its variables.
      after: the changed graph and its variables.
      plan: which neurons were kept, dropped and added.
      inputs: arrays for the original graph, neurons on the last dimension.
      kwargs: for ``apply`` of both graphs.
      incomparable: why the two need not agree; None: they do.
      tolerance: largest difference allowed, relative to the largest output; None: by the dtype of the output.

    Raises:
      OracleError: if the two should agree and do not.
    """
    (graph, variables), (changed, new_variables) = before, after
    with jax.default_matmul_precision("highest"):
        inputs_now = inputs_after(graph, plan, inputs)
        outputs = compiled(outputs_of, changed, new_variables, inputs_now, **kwargs)
        reason = _nothing(inputs) or incomparable or _renumbered(graph, plan, inputs)
        reason = reason or _coupled(graph, plan) or _unread(graph, plan)
        if reason:
            return Check(False, reason)
        if "rngs" in kwargs or has_keys(variables):  # networks of other widths draw other numbers for the same neurons
            kwargs = {**kwargs, "rngs": even_keys(kwargs.get("rngs"))}
            variables, new_variables = with_even_keys(variables), with_even_keys(new_variables)
            if reason := uneven(changed, new_variables, inputs_now, kwargs):
                return Check(False, reason)
            outputs = compiled(outputs_of, changed, new_variables, inputs_now, **kwargs)
        expected = masked_outputs(graph, variables, plan, *inputs, **kwargs)
        finite = [True] * len(expected)
        if not all(_is_finite(array) for array in expected):
            finite = [_is_finite(array) for array in compiled(outputs_of, graph, variables, inputs, **kwargs)]
    difference = 0.0
    for vertex, got, wanted, known in zip(changed.outputs, outputs, expected, finite, strict=True):
        pair = _both(vertex.name, got, wanted, plan)
        if known or _same_infinities(*pair):
            difference = max(difference, _difference(vertex.name, *pair, _tolerance(got.dtype, tolerance)))
        else:
            reason = f"output {vertex.name!r} of the original is not finite for these inputs"
    return Check(False, reason) if reason else Check(True, None, difference)


def _nothing(inputs: tuple[Array, ...]) -> str | None:
    """Outputs for no examples agree whatever the networks compute."""
    return "the inputs are empty" if any(np.size(array) == 0 for array in inputs) else None


def masked_outputs(
    graph: Graph, variables: Variables, plan: Plan, *inputs: Array, **kwargs: object
) -> tuple[PyTree, ...]:
    """The original network, with the neurons that ``plan`` drops forced to zero where weights read them."""
    lossy = {name: axis for name, axis in plan.axes.items() if axis.dropped.size}
    alive = {
        plan.renamed.get(name, name): np.isin(np.arange(axis.before), axis.dropped, invert=True)
        for name, axis in lossy.items()
    }
    masked, dropped = _inner_masked(graph, variables, plan)
    return compiled(_forced, graph, masked, inputs, alive, dropped, **kwargs)


def _forced(
    graph: Graph,
    variables: Variables,
    inputs: tuple[Array, ...],
    alive: Mapping[str, Array],
    dropped: Mapping[Path, Sequence[Labels]],
    **kwargs: object,
) -> tuple[PyTree, ...]:
    """The outputs of a network with neurons forced to zero.

    Args:
      graph: the network.
      variables: its variables.
      inputs: its inputs.
      alive: for each axis that loses neurons which of them stay.
      dropped: for variables of which weights are functions the neurons whose weights are 0.
      **kwargs: for ``apply``.
    """

    def mask(path: tuple[str, ...], vertex: Vertex, port: int, value: PyTree) -> PyTree:
        source = vertex.inputs[port]
        name = "/".join((*path, source.name))
        if not vertex.op.absorbs or name not in alive or holds_words(graph.ties, name, source.op, value):
            return value
        return jnp.where(alive[name], value, 0)

    def run(given: Mapping[Path, Array]) -> PyTree:
        every = jax.tree_util.tree_map_with_path(lambda keys, array: given.get(_path(keys), array), variables)
        return outputs_of(graph, every, inputs, mask, **kwargs)

    if not dropped:
        return tuple(run({}))
    arrays = flat(variables)
    return tuple(with_gates(run, {path: arrays[path] for path in dropped}, dropped, np.zeros(1)))


def _path(keys: tuple[jax.tree_util.DictKey, ...]) -> Path:
    return tuple(key.key for key in keys)


def _inner_masked(graph: Graph, variables: Variables, plan: Plan) -> tuple[Variables, dict[Path, list[Labels]]]:
    """Neurons of inner axes are out of sight while a vertex runs: zero is forced on the weights that read them.

    Returns:
      The variables with zeros; and the neurons that are dropped on variables of which weights are functions: zero is
      forced on these weights where they meet an activation.
    """
    readers = _inner_readers(graph, plan)
    weights = {path: leaf.weight for path, leaf in graph.ties.leaves.items() if path in readers}
    computed = {path: weight for path, weight in weights.items() if weight is not None}
    held = [path for path, weight in computed.items() if weight.holds]
    dropped = {path: [_dropped(graph, path, axis, dim, plan) for axis, dim in readers[path]] for path in held}

    def masked(keys: tuple[jax.tree_util.DictKey, ...], array: Array) -> Array:
        path = _path(keys)
        return array if path in computed else _zeroed(array, readers.get(path, ()), plan)

    return jax.tree_util.tree_map_with_path(masked, variables) if readers else variables, dropped


def _dropped(graph: Graph, path: Path, axis: str, dim: int, plan: Plan) -> Labels:
    """The neurons that go, which have gate 0."""
    numbers = np.full(graph.ties.size(axis), -1, np.int32)
    numbers[plan.axes[axis].dropped,] = 0
    return Labels(numbers, (dim,), frozenset(graph.ties.axes[axis]), frozenset([path]))


def _zeroed(array: Array, readers: Iterable[tuple[str, int]], plan: Plan) -> Array:
    """An array with zeros where it reads neurons that are dropped."""
    zeroed = np.array(to_host(array)) if (readers := list(readers)) else array
    for axis, dim in readers:
        zeroed[(slice(None),) * dim + (plan.axes[axis].dropped,)] = 0
    return placed_like(zeroed, array) if readers else array


def _inner_readers(graph: Graph, plan: Plan) -> dict[Path, list[tuple[str, int]]]:
    """For each leaf the axes that lose neurons and that it reads inside a vertex, with the dimension.

    These are inner axes, and of a recurrent layer its own output.
    """
    lossy, now = _inner_losses(graph, plan), {old: new for new, old in plan.renamed.items()}
    found: dict[Path, list[tuple[str, int]]] = {}
    for path, leaf in graph.ties.leaves.items():
        for dim, (axis, role) in enumerate(zip(leaf.axes, leaf.roles, strict=True)):
            if axis is None or role != "in" or now.get(axis, axis) not in plan.axes:
                continue
            name = now.get(axis, axis)
            if name in lossy or (_is_own(path, axis) and plan.axes[name].dropped.size):
                found.setdefault(path, []).append((name, dim))
        for dim, window in enumerate(plan.leaves.get(path, ())):
            if window is not None and leaf.axes[dim] is None and window in lossy:  # taps of a kernel
                found.setdefault(path, []).append((window, dim))
    return found


def _is_own(path: Path, axis: str) -> bool:
    """Whether a leaf that reads an axis belongs to the vertex that puts it out."""
    return "/".join(path[1:]).startswith(f"{axis}/")


def _inner_losses(graph: Graph, plan: Plan) -> list[str]:
    """Axes that lose neurons and are no vertex's output."""
    visible = _visible(graph)
    lossy = [name for name, axis in plan.axes.items() if axis.dropped.size]
    return [name for name in lossy if plan.renamed.get(name, name) not in visible]


def _visible(graph: Graph, outer: str = "") -> set[str]:
    """The axes that an intercepted evaluation gets to see: those of vertices, also inside wrapped graphs."""
    found = {outer + vertex.name for vertex in graph.vertices}
    for vertex in graph.vertices:
        if isinstance(vertex.op, Subgraph):
            found |= _visible(vertex.op.graph, f"{outer}{vertex.name}/")
    return found


def _unread(graph: Graph, plan: Plan) -> str | None:
    """An axis that lost neurons which no parameter reads, nor any product of them, and no vertex puts out."""
    ties = graph.ties
    places = [plan.renamed.get(axis, axis) for found in _inner_readers(graph, plan).values() for axis, _ in found]
    read = {run for axis in (*places, *_visible(graph)) for run in ties.plain(ties.axes.get(axis, ()))}
    before = {axis: plan.renamed.get(axis, axis) for axis in plan.changed}
    losses = [before.get(axis, axis) for axis in _inner_losses(graph, plan)]
    changed = ties.changed_runs(before.values(), among=losses)
    lost = next((axis for run, axis in changed.items() if run not in read), None)
    return f"{lost!r} lost neurons that no parameter reads, so they cannot be forced to zero" if lost else None


def _coupled(graph: Graph, plan: Plan) -> str | None:
    found = graph.ties.changed_coupled([plan.renamed.get(axis, axis) for axis in plan.changed])
    return next((f"{axis!r} changed and is coupled: {reason}" for axis, reason in found.items()), None)


def _renumbered(graph: Graph, plan: Plan, inputs: tuple[Array, ...]) -> str | None:
    """Why the same whole numbers in the inputs mean something else to the new network."""
    given = [(v, x) for v, x in zip(graph.inputs, inputs, strict=True) if _may_look_up(graph, v, x)]
    tables = {graph.ties.index_axis(run) for run in graph.ties.indexed}
    changed = [v.name for v, _ in given if v.name in plan.changed]
    for axis in (*changed, *sorted(tables & plan.changed.keys() - {*changed})):
        now = plan.axes[axis]
        if now.moved:
            return f"the indices of {'input ' * (axis in changed)}{axis!r} have been renumbered"
        size = min(now.before, now.after)
        if any(np.min(x) < 0 or np.max(x) >= size for v, x in given if axis in (v.name, *tables)):
            return f"the inputs have indices of {axis!r} outside of 0 to {size - 1}, which the two networks share"
    return None


def _may_look_up(graph: Graph, vertex: Vertex, array: Array) -> bool:
    """Whether entries may be looked up by an input: words, or whole numbers that a model reads in ways of its own."""
    if holds_words(graph.ties, vertex.name, vertex.op, array):
        return True
    return jnp.issubdtype(jnp.result_type(array), jnp.integer) and vertex.name not in graph.ties.changeable()


def _both(name: str, got: Array, wanted: Array, plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """An output of both networks, with the neurons that both have."""
    all_got, all_wanted = _numbers(got), _numbers(wanted)
    source = plan.axes[name].source if name in plan.axes else np.arange(all_got.shape[-1])
    return all_got[..., source != NEW], all_wanted[..., source[source != NEW]]


def _is_finite(array: Array) -> bool:
    return bool(np.isfinite(_numbers(array)).all())


def _same_infinities(got: np.ndarray, wanted: np.ndarray) -> bool:
    """Whether what is not finite is the same, as where positions are masked by ``-inf``.

    Where numbers overflow it need not be: what a sum of infinities is depends on its order.
    """
    infinite = ~np.isfinite(wanted)
    return np.array_equal(got[infinite], wanted[infinite])


def _difference(name: str, got64: np.ndarray, wanted64: np.ndarray, tolerance: float) -> float:
    with np.errstate(invalid="ignore"):
        apart = np.where(got64 == wanted64, 0.0, np.abs(got64 - wanted64))
    difference = float(np.max(apart, initial=0.0))
    sizes = np.abs(wanted64[np.isfinite(wanted64)])
    allowed = tolerance * max(1.0, float(np.max(sizes, initial=0.0)))
    if not difference <= allowed:  # also catches NaN
        if np.isfinite(wanted64).all() and not np.isfinite(got64).all():
            raise OracleError(
                f"Output {name!r} is not finite, where that of the original is: a new neuron computes something like "
                "0 / 0, which no zero weight can hide. Start it elsewhere: new='split', or a function of NewEntries."
            )
        raise OracleError(
            f"Output {name!r} differs by {difference:.3g} (allowed: {allowed:.3g}) from the original with the dropped "
            "neurons forced to zero. If the original is finite with them, a vertex does not compute what it was "
            "declared to (an invariant_vertex or a registered layer that mixes its neurons)."
        )
    return difference


def _numbers(array: Array) -> np.ndarray:
    """In double precision, with a dimension of neurons: a scalar has one of them."""
    return np.atleast_1d(np.asarray(array).astype(np.complex128 if np.iscomplexobj(array) else np.float64))


def _tolerance(dtype: np.dtype, tolerance: float | None) -> float:
    if tolerance is not None:
        return tolerance
    if not jnp.issubdtype(dtype, jnp.inexact):
        return 0.0
    return float(np.sqrt(jnp.finfo(dtype).eps)) / 3  # type: ignore[no-untyped-call]  # jax does not type it
