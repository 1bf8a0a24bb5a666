"""Bad values inside of what searches and compression are given: in dicts and lists, and returned by functions."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import optax
import pytest
from bad_values import BAD
from good_calls import calls
from networks import X, network
from test_bad_input_generated import not_finite

import naivenas_jax as nas

pytestmark = pytest.mark.usefixtures("unchecked")

Wrap = Callable[[Any], Any]
#: What is deleted has no repr, and is tried where arrays are taken.
VALUES = sorted(BAD.keys() - {"deleted array"})


def returning(value: Any) -> Callable[..., Any]:
    return lambda *_, **__: value


def by_axis(value: Any) -> dict[str, Any]:
    return {"a": value}


def alone(value: Any) -> list[Any]:
    return [value]


def second(*first: Any) -> Wrap:
    return lambda value: [*first, value]


def optimizer(value: Any) -> optax.GradientTransformation:
    return optax.GradientTransformation(lambda params: (), lambda updates, state, params=None: (value, state))


OF_CHANGES: dict[str, list[Wrap]] = {
    "new": [returning, lambda value: {"kernel": value}],
    "max_new": [by_axis, returning],
    "constraints": [alone, returning],
    "inputs": [alone],
}
INSIDE: dict[str, dict[str, list[Wrap]]] = {
    "random_mutation": {
        **OF_CHANGES,
        "kinds": [lambda value: {"width_down": value}, second("width_down")],
        "utility": [by_axis, returning],
    },
    "SearchSpace": {
        "sizes": [second(2), by_axis, lambda value: by_axis([2, value])],
        "makers": [alone, by_axis, lambda value: by_axis([value])],
        "kernels": [second(3), by_axis],
        "activations": [alone],
        "protected": [alone, by_axis],
    },
    "crossover": {
        "first": [
            second(network()[0]),
            lambda value: (value, network()[1]),
            lambda value: (network()[0], by_axis(value)),
        ],
        "second": [second(network()[0]), lambda value: (value, network()[1])],
        "inputs": [alone],
    },
    "refine": {"batches": [alone, second(X)], "tx": [optimizer]},
    "frontier": {"measure": [returning], "fractions": [alone], "batches": [second(X)]},
    "compress": {
        **OF_CHANGES,
        "batches": [alone, second(X)],
        **{key: [by_axis] for key in ("request", "min_size", "max_size", "max_latency", "multiple_of")},
        "layer_keywords": [by_axis, lambda value: by_axis({"x": value})],
        "fallback": [alone],
        "minimise": [returning],
    },
}


class Case(NamedTuple):
    function: str
    parameter: str
    number: int
    bad: str


CASES = [
    Case(function, parameter, number, bad)
    for function, parameters in INSIDE.items()
    for parameter, wraps in parameters.items()
    for number in range(len(wraps))
    for bad in VALUES
]


def fault_of(case: Case) -> str | None:
    """What is wrong with how a case ends; None if nothing is."""
    value = INSIDE[case.function][case.parameter][case.number](BAD[case.bad]())
    try:
        return not_finite(calls()[case.function](**{case.parameter: value}))
    except nas.NaiveNASError as error:
        return None if str(error).strip() else "the error says nothing"
    except Exception as error:  # whatever else it is, it is what we look for
        return f"{type(error).__name__}: {str(error)[:150]}"


def test_a_sample_of_values_inside_ends_in_errors_of_ours():
    quick = [case for case in CASES if case.function in ("random_mutation", "SearchSpace", "crossover")]
    faults = {case: fault for case in random.Random(0).sample(quick, 60) if (fault := fault_of(case))}
    assert not faults, "\n".join(f"{case}: {fault}" for case, fault in faults.items())


@pytest.mark.slow
@pytest.mark.parametrize("function", INSIDE)
def test_all_values_inside_end_in_errors_of_ours(function: str):
    faults = {case: fault for case in CASES if case.function == function and (fault := fault_of(case))}
    assert not faults, "\n".join(f"{case}: {fault}" for case, fault in faults.items())


@pytest.mark.parametrize(
    ("function", "given", "error", "message"),
    [
        ("refine", {"tx": optimizer(1j)}, nas.PlanError, "tx= makes updates of other shapes than the parameters"),
        ("refine", {"tx": optax.GradientTransformation(0, 0)}, nas.PlanError, "tx= cannot make a step .* TypeError"),
        ("random_mutation", {"kinds": ["width_down", []]}, nas.RequestError, r"kinds must be weights .* found \[\]"),
        ("random_mutation", {"utility": {"a": 10**400}}, nas.UtilityError, "The utility of 'a' must be real numbers"),
        ("random_mutation", {"new": {"kernel": 10**400}}, nas.PlanError, "new= gives 'kernel' .* no array can hold"),
        ("random_mutation", {"constraints": lambda sizes: 0.5}, nas.RequestError, "constraints= takes one condition"),
        ("random_mutation", {"constraints": lambda: 0.5}, nas.RequestError, "constraints= .*sizes"),
        ("Saved.restore", {"like": nn.Dense(2)}, nas.SaveError, "like= has Dense"),
        (
            "frontier",
            {"batches": [X, X * 1j]},
            nas.VariablesError,
            "Batch 1 of batches= has inputs of dtypes .'complex64",
        ),
        (
            "frontier",
            {"keywords": {"train": True}},
            nas.GraphError,
            "keyword arguments {'train': True} a layer updates",
        ),
        (
            "compress",
            {"keywords": {"train": True}},
            nas.GraphError,
            "keyword arguments {'train': True} a layer updates",
        ),
    ],
)
def test_what_was_found(function: str, given: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        calls()[function](**given)
