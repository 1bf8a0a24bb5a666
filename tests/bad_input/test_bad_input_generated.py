"""Bad input made from the signatures of the public surface: every case ends in an error of ours, or means something.

There is one good call for every public function and every method of a public class (`good_calls`). Each of its
parameters in turn gets each of the bad values (`bad_values`), in a call of its own. What is
limited is its time on the processor, which does not depend on what else the machine does.
"""

from __future__ import annotations

import inspect
import random
import signal
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bad_values import BAD
from good_calls import ANNOTATIONS, RESULTS, calls, surface

import naivenas_jax as nas

pytestmark = pytest.mark.usefixtures("unchecked")

SECONDS = 20
SAMPLE = 400


class Case(NamedTuple):
    function: str
    parameter: str
    bad: str


#: Parameters that go to Flax as they are, which says itself what is wrong with them.
OF_FLAX = ("mutable", "rngs", "rng of Graph.init", "name of Graph.as_module", "inputs of Graph.run")
#: Where arrays are taken, one that was deleted is tried; elsewhere even its repr fails.
OF_ARRAYS = ("inputs", "batches", "request", "utility")
#: Where functions are taken a module is a function, whose own errors are those of its call.
OF_FUNCTIONS = (
    *("utility", "constraints", "minimise", "max_new", "fn", "make", "loss_fn", "new", "latency", "fallback"),
    *("on_change", "timer", "train", "evaluate", "map"),
)
#: What comes of these is computed from the user's numbers by the user's network: it is as finite as they are.
AS_GIVEN = (
    "apply",
    "Graph.apply",
    "Graph.run",
    "Graph.init",
    "Population.apply",
    "Canonical.rename",
    "Canonical.restore",
    "masked",
    "Mutation.carry",
    "TaylorAverage.update",
    "Gradual.prune",
)


def cases() -> Iterator[Case]:
    for function, call in calls().items():
        for parameter in inspect.signature(call.function).parameters.values():
            if parameter.kind is not parameter.VAR_KEYWORD:
                yield from (
                    Case(function, parameter.name, bad) for bad in BAD if _is_tried(function, parameter.name, bad)
                )


def _is_tried(function: str, parameter: str, bad: str) -> bool:
    if parameter in OF_FLAX or f"{parameter} of {function}" in OF_FLAX:
        return False
    if bad == "deleted array":
        return parameter in OF_ARRAYS and "graph" in calls()[function].arguments
    if bad == "a key":
        return parameter != "inputs"  # an array like any other, to which the model says what it does not like
    return bad != "a module" or (parameter not in OF_FUNCTIONS and function != "Graph.find")


def fault_of(case: Case) -> str | None:
    """What is wrong with how a case ends; None if nothing is."""

    def late(*_: object) -> None:
        raise TimeoutError("took too long")

    signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = calls()[case.function](**{case.parameter: BAD[case.bad]()})
            return None if case.function in AS_GIVEN else not_finite(result)
    except nas.NaiveNASError as error:
        return None if str(error).strip() else f"{type(error).__name__} says nothing"
    except Exception as error:  # whatever else it is, it is what we look for
        return f"{type(error).__name__}: {str(error).splitlines()[0][:150] if str(error) else ''}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return None


def not_finite(result: Any) -> str | None:
    """What a result has that is no finite number; None: nothing."""
    if isinstance(result, nas.Mutation):
        result = result.variables
    if isinstance(result, Mapping | tuple | list | float | np.ndarray | jax.Array):
        for path, leaf in jax.tree_util.tree_leaves_with_path(result):
            inexact = isinstance(leaf, float | np.ndarray | jax.Array) and jnp.issubdtype(
                np.asarray(leaf).dtype, jnp.inexact
            )
            if inexact and not np.isfinite(np.asarray(leaf)).all():
                return f"not finite: {jax.tree_util.keystr(path)}"
    return None


def test_everything_public_has_a_good_call():
    """Every function, constructor and method; but for values that only the library makes."""
    public = dict(surface())
    assert set(calls()) == set(public) - {*RESULTS, *ANNOTATIONS}
    assert {*RESULTS, *ANNOTATIONS} <= set(public)
    for name, call in calls().items():
        parameters = inspect.signature(call.function).parameters
        assert set(call.arguments) <= set(parameters), (name, list(parameters))


@pytest.mark.parametrize("function", list(calls()))
def test_good_calls_are_good(function):
    assert not_finite(calls()[function]()) is None


def test_a_sample_ends_in_errors_of_ours():
    chosen = random.Random(0).sample(list(cases()), SAMPLE)
    faults = {case: fault for case in chosen if (fault := fault_of(case))}
    assert not faults, "\n".join(f"{case}: {fault}" for case, fault in faults.items())


@pytest.mark.slow
@pytest.mark.parametrize("function", list(calls()))
def test_all_end_in_errors_of_ours(function):
    faults = {case: fault for case in cases() if case.function == function and (fault := fault_of(case))}
    assert not faults, "\n".join(f"{case}: {fault}" for case, fault in faults.items())
