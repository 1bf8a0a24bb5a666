"""What every mutation promises, checked by means of the fuzzer's own.

The masking is independent of the library's check: the entries of every variable that lie on a dropped neuron are set to
the number that stands for a weight of 0, whatever the variable is to the network; and networks are evaluated by numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from mutations import is_tokens
from numpy_evaluation import evaluate
from subject import Subject

import naivenas_jax as nas

#: Compiled once and run once, so that compiling well is wasted.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
ADAM = optax.adam(1e-3)
TOLERANCE = 2e-5


class BrokenPromiseError(AssertionError):
    """Something that the library promises does not hold.

    Attributes:
      promise: which.
    """

    def __init__(self, promise: str, message: str):
        super().__init__(f"{promise}: {message}")
        self.promise = promise


def require(holds: bool, promise: str, message: str = "") -> None:
    if not holds:
        raise BrokenPromiseError(promise, message)


# -- trees as dicts by path ------------------------------------------------------------------------------------------


def paths(tree: Any) -> dict[tuple[str, ...], Any]:
    return {tuple(str(k.key) for k in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def nested(leaves: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = leaf
    return tree


def as_tuple(outputs: Any) -> tuple[Any, ...]:
    return tuple(jax.tree.leaves(outputs))


# -- evaluation ------------------------------------------------------------------------------------------------------


Join = Callable[[Sequence[Any]], tuple[Any, ...]]


def traced(graph: nas.Graph, variables: Any, inputs: Sequence[Any], join: Join = tuple, **kwargs: Any) -> Any:
    return jax.make_jaxpr(lambda v, xs: graph.apply(v, *join(xs), **kwargs))(variables, list(inputs))


def inputs_after(mutation: nas.Mutation, inputs: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """The inputs of the new network: dropped neurons left out, new ones at random."""
    found = []
    for vertex, x in zip(mutation.before.inputs, inputs, strict=True):
        now = next((name for name, old in mutation.plan.renamed.items() if old == vertex.name), vertex.name)
        if is_tokens(vertex):
            words = [axis.after for name, axis in mutation.plan.axes.items() if name == now or ":vocabulary" in name]
            found.append(np.minimum(x, min(words) - 1).astype(x.dtype))  # words that are left
            continue
        if now not in mutation.plan.axes or not mutation.plan.axes[now].changed:
            found.append(np.asarray(x))
            continue
        source = mutation.plan.axes[now].source
        fresh = np.random.default_rng(len(source)).normal(size=(*np.shape(x)[:-1], len(source)))
        found.append(np.where(source < 0, fresh, np.take(x, np.maximum(source, 0), -1)).astype(x.dtype))
    return tuple(found)


# -- the masked original ---------------------------------------------------------------------------------------------


def masked(mutation: nas.Mutation, silent: Mapping[str, float]) -> dict[str, Any]:
    """The old variables, where whatever lies on a dropped neuron stands for a weight of 0."""
    arrays = paths(mutation.variables_before)
    for new_path, dims in mutation.plan.leaves.items():
        path = mutation.plan.moved.get(new_path, new_path)
        if new_path in mutation.plan.created or path not in arrays:
            continue
        array = np.array(arrays[path])
        for dim, name in enumerate(dims):
            dropped = () if name is None else mutation.plan.axes[name].dropped
            if len(dropped) and path[-1] != "var":
                array[(slice(None),) * dim + (dropped,)] = silent.get(path[-1], 0)
        arrays[path] = array
    return nested(arrays)


def incomparable(mutation: nas.Mutation, inputs: Sequence[Any]) -> str | None:
    """Why the new network may compute something else than the masked original."""
    if mutation.incomparable:
        return "another computation"
    if mutation.before.ties.changed_coupled(mutation.plan.changed):
        return "coupled"
    tokens = [vertex.name for vertex in mutation.before.inputs if is_tokens(vertex)]
    for name, axis in mutation.plan.axes.items():
        words = name in tokens or ":vocabulary" in name
        shared = min(axis.before, axis.after)
        if words and not np.array_equal(axis.source[:shared], np.arange(shared)):
            return "renumbered"
    return None


def check_function(
    mutation: nas.Mutation, before: Any, after: Any, old: Sequence[Any], new: Sequence[Any], silent: Mapping[str, float]
) -> str:
    """The new network computes what the masked original does. ``before`` and ``after`` are traces of the two.

    Returns:
      "compared", or why not.
    """
    now = evaluate(after, mutation.variables, list(new))
    if reason := incomparable(mutation, old):
        return reason
    wanted = evaluate(before, masked(mutation, silent), list(_old_inputs(mutation, old, new)))
    scale = max([1.0, *(float(np.abs(y).max(initial=0)) for y in wanted)])
    if not all(np.isfinite(y).all() for y in wanted) or scale > 1e4:
        return "the original is not finite"
    for vertex, got, old_output in zip(mutation.graph.outputs, now, wanted, strict=True):
        axis = mutation.plan.axes.get(vertex.name)
        source = axis.source if axis is not None else np.arange(np.shape(got)[-1])
        a = np.asarray(old_output)[..., source[source >= 0]]
        b = np.asarray(got)[..., source >= 0]
        require(a.shape == b.shape, "function", f"{vertex.name} has the shape {b.shape} in place of {a.shape}")
        off = float(np.abs(a - b).max(initial=0))
        require(off <= TOLERANCE * scale, "function", f"{vertex.name} is off by {off:.3g} at a scale of {scale:.3g}")
    return "compared"


def _old_inputs(mutation: nas.Mutation, old: Sequence[Any], new: Sequence[Any]) -> list[Any]:
    """The inputs of the original, zero where the neuron is dropped."""
    found = []
    for vertex, x, y in zip(mutation.before.inputs, old, new, strict=True):
        now = next((name for name, was in mutation.plan.renamed.items() if was == vertex.name), vertex.name)
        axis = mutation.plan.axes.get(now)
        if is_tokens(vertex):
            x = y
        elif axis is not None and axis.dropped.size:
            x = np.array(x)
            x[..., axis.dropped] = 0
        found.append(x)
    return found


# -- what else is promised -------------------------------------------------------------------------------------------


def check_import(subject: Subject, trace: Any) -> None:
    """The graph of a model computes what the model itself does."""
    own, variables, inputs = subject.own, subject.variables, list(subject.inputs)
    if own is None:
        return
    own_trace = jax.make_jaxpr(lambda v, xs: as_tuple(own(v, *subject.join(xs))))(variables, inputs)
    wanted = evaluate(own_trace, variables, inputs)
    for a, b in zip(wanted, evaluate(trace, variables, inputs), strict=True):
        require(np.allclose(a, b, rtol=1e-6, atol=1e-6, equal_nan=True), "import", "the graph is not the model")


def check_plan(mutation: nas.Mutation) -> None:
    """The plan is a value, and says where every neuron and every variable comes from."""
    plan = mutation.plan
    require(nas.Plan.from_json(plan.to_json()) == plan, "plan", "JSON gives another plan")
    before, after = paths(mutation.variables_before), paths(mutation.variables)
    require(set(after) == set(plan.leaves), "plan", f"leaves {set(after) ^ set(plan.leaves)}")
    came = {plan.moved.get(path, path) for path in plan.leaves if path not in plan.created}
    require(came <= set(before), "plan", f"no variable before: {came - set(before)}")
    require(set(before) - came == set(plan.removed), "plan", f"removed: {set(before) - came} and {set(plan.removed)}")
    for path, dims in plan.leaves.items():
        sizes = tuple(n if a is None else plan.axes[a].after for a, n in zip(dims, after[path].shape, strict=True))
        require(sizes == after[path].shape, "plan", f"{path}: {sizes} and {after[path].shape}")


def check_fresh_shapes(mutation: nas.Mutation, inputs: Sequence[Any]) -> None:
    """A hand-written graph has the variables that a fresh start would have."""
    fresh = jax.eval_shape(lambda xs: mutation.graph.init(jax.random.key(0), *xs), list(inputs))
    wanted = {path: (leaf.shape, str(leaf.dtype)) for path, leaf in paths(fresh).items()}
    found = {path: (np.shape(leaf), str(leaf.dtype)) for path, leaf in paths(mutation.variables).items()}
    require(wanted == found, "fresh shapes", f"{dict(wanted.items() ^ found.items())}")


def check_jit(
    graph: nas.Graph, variables: Any, inputs: Sequence[Any], trace: Any, subject: Subject, train: bool
) -> None:
    """Under jit the network computes what it is traced as; the gradient of what is finite is finite."""
    draws, join = subject.draws, subject.join
    kwargs = {"rngs": dict(draws)} if draws else {}
    in_training: dict[str, Any] = dict(kwargs)
    if train:
        rngs = {"dropout": jax.random.key(1), **draws}
        in_training = {"rngs": rngs, "train": True, "mutable": ["batch_stats"]}

    def program(variables: Any, xs: Any) -> Any:
        def loss(params: Any) -> Any:
            result = graph.apply({**variables, "params": params}, *join(xs), **in_training)
            outputs = result[0] if train else result
            return sum(jnp.mean(jnp.tanh(y) ** 2) for y in as_tuple(outputs))

        value, gradient = jax.value_and_grad(loss, allow_int=True)(variables.get("params", {}))
        return as_tuple(nas.apply(graph, variables, *join(xs), **kwargs)), value, gradient

    outputs, value, gradient = jax.jit(program, compiler_options=QUICK)(variables, list(inputs))
    wanted = evaluate(trace, variables, list(inputs))
    for a, b in zip(wanted, outputs, strict=True):
        scale = max(1.0, float(np.abs(a).max(initial=0)))
        if np.isfinite(a).all() and scale < 1e4:
            off = float(np.abs(a - np.asarray(b)).max(initial=0))
            require(off <= 2e-3 * scale, "jit", f"off by {off:.3g} at a scale of {scale:.3g}")
            for path, leaf in paths(gradient).items():
                finite = leaf.dtype == jax.dtypes.float0 or np.isfinite(leaf).all() or not np.isfinite(value)
                require(bool(finite), "gradient", f"{path} is not finite")


def check_state(mutation: nas.Mutation, state: Any) -> Any:
    """The carried state of Adam: a fresh one with the entries of the neurons that stayed imposed."""
    shapes = jax.eval_shape(ADAM.init, mutation.variables.get("params", {}))
    fresh = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    carried = mutation.carry(state, fresh=fresh)
    same = jax.tree.structure(carried) == jax.tree.structure(fresh)
    require(same, "state", f"{jax.tree.structure(carried)} and {jax.tree.structure(fresh)}")
    require(int(carried[0].count) == int(state[0].count), "state", "the count of steps")
    for moment in ("mu", "nu"):
        old, new = paths(getattr(state[0], moment)), paths(getattr(carried[0], moment))
        for path, wanted in _imposed(mutation, old, paths(getattr(fresh[0], moment)), moment).items():
            close = np.allclose(new[path], wanted, rtol=1e-5, atol=1e-6)
            require(close, "state", f"{moment} of {path}")
    return carried


def _imposed(mutation: nas.Mutation, old: Any, fresh: Any, moment: str) -> dict[tuple[str, ...], Any]:
    plan, found = mutation.plan, {}
    for path, start in fresh.items():
        full = ("params", *path)
        source = plan.moved.get(full, full)[1:]
        if full in plan.created or source not in old:
            found[path] = np.asarray(start)
            continue
        array = np.asarray(old[source])
        sources = [
            np.arange(n) if name is None else plan.axes[name].source
            for name, n in zip(plan.leaves[full], array.shape, strict=True)
        ]
        for dim, source in enumerate(sources):
            array = np.take(array, np.maximum(source, 0), dim)
            array = np.where(_along(source < 0, dim, array.ndim), 0, array)
        found[path] = array
    return found


def _along(values: np.ndarray, dim: int, ndim: int) -> np.ndarray:
    return values.reshape([-1 if i == dim else 1 for i in range(ndim)])


def check_undo(mutation: nas.Mutation) -> None:
    """Back to the network before, bit by bit."""
    graph, variables = mutation.undo(mutation.variables)
    require(graph == mutation.before, "undo", "another graph")
    wanted, found = paths(mutation.variables_before), paths(variables)
    require(wanted.keys() == found.keys(), "undo", f"{wanted.keys() ^ found.keys()}")
    for path, array in wanted.items():
        if mutation.plan.rescaled or any(axis.new.size for axis in mutation.plan.axes.values()):  # split in three
            same = np.shape(array) == np.shape(found[path]) and np.allclose(
                array, found[path], rtol=1e-5, equal_nan=True
            )
        else:
            same = np.array_equal(array, found[path], equal_nan=True)
        require(bool(same), "undo", f"{path}")


def check_library_oracle(mutation: nas.Mutation, inputs: Sequence[Any], subject: Subject, ours: str) -> None:
    """The library's own check agrees; it compares, or says why not."""
    kwargs = {"rngs": dict(subject.draws)} if subject.draws else {}
    found = mutation.check(*subject.join(inputs), **kwargs)
    require(found.compared or bool(found.reason), "check", "no reason")


Check = Callable[..., Any]
