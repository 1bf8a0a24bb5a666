"""Bad input made from the signatures of the public surface: every case ends in an error of ours, or means something.

For every function of ``nas.__all__`` there is one good call; each of its parameters in turn gets each of the values
below, in a call of its own with a limit of time.
"""

from __future__ import annotations

import inspect
import random
import signal
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import config

import naivenas_jax as nas

X = jnp.ones((4, 3))
SECONDS = 20
SAMPLE = 400


@cache
def network() -> tuple[nas.Graph, dict[str, Any]]:
    x = nas.input_vertex("x", 3)
    a, b = nas.layer("a", nn.Dense(6), x), nas.layer("b", nn.Dense(6), x)
    act = nas.invariant_vertex("act", nn.relu, nas.layer("norm", nn.BatchNorm(), (a + b).named("sum")))
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.concat("cat", act, nas.layer("c", nn.Dense(4), x))))
    return graph, graph.init(jax.random.key(0), X)


@cache
def images() -> tuple[nas.Graph, dict[str, Any]]:
    x = nas.input_vertex("x", 3, shape=(8, 8, 3))
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.flatten("flat", nas.layer("conv", nn.Conv(4, (3, 3)), x))))
    return graph, graph.init(jax.random.key(0), jnp.ones((1, 8, 8, 3)))


@cache
def narrower() -> nas.Mutation:
    return nas.delta_nout(*network(), {"c": -1})


def another() -> nas.Graph:
    return nas.Graph(y := nas.input_vertex("y", 2), nas.layer("z", nn.Dense(2), y))


def deleted() -> jax.Array:
    array = jnp.arange(6.0) + 1
    array.delete()
    return array


def loss(apply, variables, batch):
    return jnp.mean(apply(variables, batch) ** 2)


class Odd:
    """An object of no use."""

    def __repr__(self) -> str:
        return "Odd()"


#: Values of wrong kinds, made anew for every case.
BAD: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "a word": lambda: "nonsense",
    "no word": lambda: "",
    "a half": lambda: 0.5,
    "nan": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "minus one": lambda: -1,
    "zero": lambda: 0,
    "huge": lambda: 10**18,
    "true": lambda: True,
    "complex": lambda: 1j,
    "bytes": lambda: b"bytes",
    "empty list": list,
    "list of None": lambda: [None],
    "list of words": lambda: ["x", "nonsense"],
    "tuple of numbers": lambda: (1, 2),
    "nested": lambda: [[1], [2, 3]],
    "empty dict": dict,
    "dict of wrong keys": lambda: {"nonsense": 1},
    "dict of numbers": lambda: {3: 3},
    "dict of None": lambda: {"a": None},
    "dict of words": lambda: {"a": "nonsense"},
    "dict of huge": lambda: {"a": 10**18},
    "dict of nan": lambda: {"a": float("nan")},
    "set": lambda: {1},
    "array": lambda: np.ones((2, 2)),
    "array of words": lambda: np.array(["a", "b"]),
    "array of objects": lambda: np.array([None, 1], object),
    "empty array": lambda: np.zeros((0,)),
    "deleted array": deleted,
    "a key": lambda: jax.random.key(0),
    "object": Odd,
    "class": lambda: Odd,
    "lambda": lambda: lambda: 0,
    "iterator": lambda: iter([1, 2]),
    "another graph": another,
    "a vertex": lambda: nas.input_vertex("w", 3),
    "a module": lambda: nn.Dense(3),
    "a mutation": narrower,
}


def calls() -> dict[str, dict[str, Any]]:
    """A good call of each function: its arguments by name. ``*inputs`` are given as a tuple."""
    graph, variables = network()
    on = {"graph": graph, "variables": variables}
    v = nas.input_vertex("v", 4)
    scores = {"a": np.ones(6), "c": np.ones(4)}
    batches = [X, X]
    dense = nn.Dense(4)
    params = dense.init(jax.random.key(0), X)
    return {
        "input_vertex": {"name": "new", "size": 3},
        "layer": {"name": "new", "flax_module": nn.Dense(3), "inputs": (v,)},
        "invariant_vertex": {"name": "new", "fn": nn.relu, "inputs": (v,)},
        "immutable_vertex": {"name": "new", "fn": nn.relu, "inputs": (v,)},
        "absorb_vertex": {"name": "new", "fn": _times, "inputs": (v,), "nout": 3, "params": {"w": "in out"}},
        "concat": {"name": "new", "inputs": (v, v)},
        "flatten": {"name": "new", "vertex": nas.input_vertex("image", 3, shape=(2, 3))},
        "Graph": {"inputs": v, "outputs": -v},
        "apply": {**on, "inputs": (X,)},
        "register_layer": {"layer_type": type("Layer", (nn.Module,), {}), "rule": nas.LayerRule(leaves={})},
        "from_linen": {"module": dense, "variables": params, "inputs": (X,)},
        "from_function": {"fn": dense.apply, "variables": params, "inputs": (X,)},
        "summary": on,
        "diagram": {"graph": graph},
        "costs": {**on, "inputs": (X,)},
        "delta_nout": {**on, "request": {"a": -1}},
        "delta_nin": {**on, "request": {"cat": (-1, None)}},
        "resize": {**on, "max_params": 0.8},
        "to": {"size": 3},
        "relaxed": {"wish": 3},
        "size": {"axis": "a"},
        "multiple_of": {"what": nas.size("a"), "factor": 2},
        "insert_vertex": {**on, "after": "a", "make": lambda v: nas.layer("new", nn.Dense(3), v)},
        "remove_vertex": {**on, "name": "act"},
        "create_edge": {**on, "source": "c", "target": "cat"},
        "remove_edge": {**on, "source": "c", "target": "cat"},
        "replace_layer": {**on, "name": "a", "make": nn.Dense(5)},
        "map_vertices": {**on, "fn": lambda v: v},
        "rename": {**on, "names": {"a": "first"}},
        "change_kernel": {**dict(zip(("graph", "variables"), images(), strict=True)), "request": {"conv": (5, 5)}},
        "report": {"mutation": narrower(), "inputs": (X,)},
        "freeze_mask": {**on, "names": "a"},
        "magnitude": on,
        "taylor": {**on, "loss_fn": loss, "batches": batches},
        "fisher": {**on, "loss_fn": loss, "batches": batches},
        "activity": {**on, "batches": batches},
        "batchnorm_scale": on,
        "random_utility": {"graph": graph, "rng": jax.random.key(0)},
        "comparable": {"graph": graph, "utility": scores},
        "combine": {"graph": graph, "parts": [(scores, 1.0), (scores, 1.0)]},
        "normalise": {"graph": graph, "utility": scores},
        "replace_nonfinite": {"utility": scores, "value": 0.0},
        "total_utility": {"graph": graph, "utility": scores},
        "compensate": {"mutation": narrower(), "batches": batches},
        "compress": {**on, "batches": batches, "max_params": 0.8},
        "recalibrate": {**on, "batches": batches},
        "gradual": {**on, "end": 10, "max_params": 0.8},
        "soft_masks": {"mutation": narrower()},
        "group_lasso": {"graph": graph, "strength": 0.1},
        "group_shrink": {"graph": graph, "amount": 0.1},
        "LayerRule": {"leaves": {"kernel": "in out"}},
    }


def _times(params, x):
    return x @ params["w"]


class Case(NamedTuple):
    function: str
    parameter: str
    bad: str


#: Parameters of ``apply`` that go to Flax as they are, which says itself what is wrong with them.
OF_FLAX = ("mutable", "rngs")
#: Where arrays are taken, one that was deleted is tried; elsewhere even its repr fails.
OF_ARRAYS = ("inputs", "batches", "request", "utility")
#: Where functions are taken a module is a function, whose own errors are those of its call.
OF_FUNCTIONS = (
    "utility",
    "constraints",
    "minimise",
    "max_new",
    "fn",
    "make",
    "loss_fn",
    "new",
    "latency",
    "fallback",
    "on_change",
)


def cases() -> Iterator[Case]:
    for function in calls():
        for parameter in inspect.signature(getattr(nas, function)).parameters.values():
            if parameter.kind is not parameter.VAR_KEYWORD:
                yield from (
                    Case(function, parameter.name, bad) for bad in BAD if _is_tried(function, parameter.name, bad)
                )


def _is_tried(function: str, parameter: str, bad: str) -> bool:
    if parameter in OF_FLAX:
        return False
    if bad == "deleted array":
        return parameter in OF_ARRAYS and "graph" in calls()[function]
    if bad == "a key":
        return parameter != "inputs"  # an array like any other, to which the model says what it does not like
    return bad != "a module" or parameter not in OF_FUNCTIONS


def run(case: Case) -> None:
    """Call the function with one bad value."""
    function = getattr(nas, case.function)
    given = {**calls()[case.function], case.parameter: BAD[case.bad]()}
    signature = inspect.signature(function)
    variable = [p.name for p in signature.parameters.values() if p.kind is p.VAR_POSITIONAL]
    if not variable:
        function(**given)
        return
    before = [name for name in signature.parameters if name in given]
    before = before[: before.index(variable[0])]
    several = given.pop(variable[0])
    if case.parameter == variable[0]:
        several = (several,)
    function(*(given.pop(name) for name in before), *several, **given)


def fault_of(case: Case) -> str | None:
    """What is wrong with how a case ends; None if nothing is."""

    def late(*_: object) -> None:
        raise TimeoutError("took too long")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run(case)
    except nas.NaiveNASError as error:
        return None if str(error).strip() else f"{type(error).__name__} says nothing"
    except Exception as error:  # whatever else it is, it is what we look for
        return f"{type(error).__name__}: {str(error).splitlines()[0][:150] if str(error) else ''}"
    finally:
        signal.alarm(0)
    return None


@pytest.fixture(autouse=True)
def unchecked():
    """Annotations are not checked: arguments are wrong on purpose."""
    before = config.jaxtyping_disable
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", before)


def test_every_good_call_is_good():
    """But for those that are missing: values that are no calls, and what needs nnx or a long search."""
    known = {*calls(), "from_nnx", "rebuild", "measure_latency", "masked", "attend", "gradmax", "fallback", "watch"}
    functions = {name for name in nas.__all__ if inspect.isfunction(getattr(nas, name))}
    assert functions <= known
    for name, arguments in calls().items():
        parameters = inspect.signature(getattr(nas, name)).parameters
        assert set(arguments) <= set(parameters), (name, list(parameters))


def test_a_sample_ends_in_errors_of_ours():
    chosen = random.Random(0).sample(list(cases()), SAMPLE)
    faults = {case: fault for case in chosen if (fault := fault_of(case))}
    assert not faults, "\n".join(f"{case}: {fault}" for case, fault in faults.items())


@pytest.mark.slow
@pytest.mark.parametrize("function", list(calls()))
def test_all_end_in_errors_of_ours(function):
    faults = {case: fault for case in cases() if case.function == function and (fault := fault_of(case))}
    assert not faults, "\n".join(f"{case}: {fault}" for case, fault in faults.items())
