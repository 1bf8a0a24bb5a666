"""What newcomers got wrong is refused where they wrote it, in words that say what would work."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import X, loss, model, narrower, network, rebuildable

import naivenas_jax as nas
from naivenas_jax.graph.dag import unknown_name

pytestmark = pytest.mark.usefixtures("unchecked")


def resized(**keywords: Any) -> Callable[[], Any]:
    return lambda: nas.resize(*network(), **keywords)


def scheduled(**keywords: Any) -> Callable[[], Any]:
    return lambda: nas.gradual(*network(), **{"end": 10, "max_params": 0.5, **keywords})


class Dropping(nn.Module):
    evaluates: bool = True

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dropout(0.5, deterministic=self.evaluates and not train)(x)
        return nn.Dense(2)(x)


def dropping(kind: str, evaluates: bool = True, **keywords: Any) -> Any:
    variables = Dropping().init(jax.random.key(0), X)
    if kind == "linen":
        return nas.from_linen(Dropping(evaluates), variables, X, **keywords)
    return nas.from_function(lambda variables, x: Dropping().apply(variables, x, train=True), variables, X)


REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "an amount as a float": (resized(max_params=20.0), nas.BudgetError, "20 times the present.*max_params=20[.]"),
    "more than there is": (resized(max_bytes=1.5), nas.BudgetError, "1.5 times the present.*grow=True"),
    "an amount of a part": (resized(max_params={"a": 3.0}), nas.BudgetError, "max_params of 'a'=3.0"),
    "an amount of time": (
        resized(max_latency=50.0, latency=lambda graph: 1.0),
        nas.BudgetError,
        "max_latency=50.0.*50 times the present",
    ),
    "a model of time that nothing limits": (resized(latency=lambda graph: 1.0), nas.BudgetError, "give max_latency="),
    "a model of time in a schedule": (scheduled(latency=lambda graph: 1.0), nas.BudgetError, "give max_latency="),
    "a model of time beside a budget, before any batch is read": (
        lambda: nas.compress(*network(), None, max_params=0.5, latency=lambda graph: 1.0),
        nas.BudgetError,
        "give max_latency=",
    ),
    "an amount at the end": (scheduled(max_params=20.0), nas.BudgetError, "20 times the present"),
    "bounds for all that contradict": (resized(min_size=30, max_size=20), nas.RequestError, "min_size=30 is above"),
    "shares for all that contradict": (resized(min_size=0.9, max_size=0.5), nas.RequestError, "min_size=0.9 is above"),
    "bounds of a schedule": (scheduled(min_size=30, max_size=20), nas.RequestError, "min_size=30 is above"),
    "bounds of one": (
        scheduled(min_size={"a": 5}, max_size={"a": 2}),
        nas.RequestError,
        "min_size=5 of 'a' is above max_size=2",
    ),
    "a function that was to be called": (
        resized(utility=nas.magnitude),
        nas.UtilityError,
        r"magnitude of a network.*utility=magnitude\(graph, variables",
    ),
    "another that was to be called": (
        lambda: nas.delta_nout(*network(), {"a": -1}, utility=nas.random_utility),
        nas.UtilityError,
        "Call it: utility=random_utility",
    ),
    "a budget by position": (
        lambda: nas.resize(*network(), 0.5),
        nas.ArgumentError,
        r"nas.resize takes 2 arguments by position \(graph, variables\), found 3.*max_params=",
    ),
    "room in words": (
        resized(request={"a": 1}, max_new="x"),
        nas.RequestError,
        "max_new for all axes must be a whole.*function by axis; found 'x'",
    ),
    "room in words, by axis": (
        resized(request={"a": 1}, max_new={"a": "x"}),
        nas.RequestError,
        "max_new for 'a' must be.*'x'",
    ),
    "an edge that is not there": (
        lambda: nas.remove_edge(*network(), "a", "cat"),
        nas.StructureError,
        "no edge from 'a' to 'cat'.*act, c",
    ),
    "a multiple in words": (
        resized(multiple_of={"a": "4"}),
        nas.RequestError,
        "multiple_of= for 'a' must be a whole number, at least 1.*'4'",
    ),
    "a multiple of nothing": (resized(multiple_of=0), nas.RequestError, "multiple_of= must be a whole number"),
    "inputs of another width": (
        lambda: nas.from_nnx(model(), jnp.ones((4, 5))),
        nas.GraphError,
        r"cannot be called with these inputs, of shapes \[\(4, 5\)\]: TypeError: dot_general.*networks.py",
    ),
    "inputs without a batch": (
        lambda: nas.from_function(lambda v, x: x @ v["p"]["w"], {"p": {"w": jnp.ones((3, 2))}}, jnp.ones(())),
        nas.GraphError,
        "cannot be called with these inputs",
    ),
    "no layer": (lambda: nas.layer("d", 3, nas.input_vertex("x", 3)), nas.GraphError, "needs a Flax layer.*int: 3"),
    "a misspelled keyword of a schedule": (scheduled(multiples_of=2), nas.ArgumentError, "nas.gradual: .*multiples_of"),
    "a wrong value of a schedule": (scheduled(multiple_of="x"), nas.RequestError, "multiple_of= must be"),
    "a wrong axis of a schedule": (scheduled(multiple_of={"none": 2}), nas.UnknownNameError, "multiple_of: .*'none'"),
    "a wrong key of a schedule": (scheduled(rng="key"), nas.PlanError, "rng= must be one key"),
    "a step in halves": (scheduled(begin=0.5), nas.RequestError, "begin must be a whole number of training steps"),
    "a step in words": (scheduled(every="ten"), nas.RequestError, "every must be a whole number of training steps"),
    "scores of one network": (
        scheduled(utility=lambda axis: 1.0),
        nas.RequestError,
        r"utility must be a function of \(graph, variables\)",
    ),
    "a misspelled keyword of inputs": (
        lambda: nas.delta_nin(*network(), {"out": -1}, utilitie=None),
        nas.ArgumentError,
        "nas.delta_nin: .*utilitie",
    ),
    "a misspelled keyword of compress": (
        lambda: nas.compress(*network(), [X], max_param=0.5),
        nas.ArgumentError,
        "nas.compress: .*max_param",
    ),
    "a wrong key of compress": (
        lambda: nas.compress(*network(), [X], max_params=0.5, rng=[1, 2]),
        nas.PlanError,
        "rng= must be one key",
    ),
    "a network for a mutation": (
        lambda: nas.compensate(*network(), [X]),
        nas.PlanError,
        "must be a nas.Mutation.*found Graph",
    ),
    "a mutation for a network and its variables": (
        lambda: nas.recalibrate(narrower(), [X]),
        nas.GraphError,
        "found Mutation.*put a star before it in the call",
    ),
    "no batches": (lambda: nas.refine(narrower()), nas.ArgumentError, "nas.refine: missing.*'batches'.*steps, tx"),
    "steps by position": (
        lambda: nas.refine(narrower(), [X], 10),
        nas.ArgumentError,
        r"2 arguments by position \(mutation, batches\), found 3. Name the others: steps=, tx=, progress=[.]$",
    ),
    "labels beside inputs": (
        lambda: nas.compensate(narrower(), [(X, X)]),
        nas.VariablesError,
        r"Batch 0 holds 2 arrays, where the graph has 1 input\(s\): x[.].*without labels",
    ),
    "progress in words": (
        lambda: nas.compensate(narrower(), [X], progress="yes"),
        nas.PlanError,
        "progress must be True, False or None",
    ),
    "plans that do not follow one another": (
        lambda: nas.AxisPlan.of(3, [2, 1]).after_plan(nas.AxisPlan.of(4, [0, 3])),
        nas.PlanError,
        "leaves 2 neurons.*starts from 3.*later.after_plan",
    ),
    "a plan of nothing": (
        lambda: nas.AxisPlan.of(3, [2]).after_plan([0, 1, 2]),
        nas.PlanError,
        "earlier must be an AxisPlan; found list",
    ),
    "training, at an import": (
        lambda: dropping("linen", train=True),
        nas.GraphError,
        r"test_newcomers_finds.py:\d+: x = nn.Dropout.*leave train= out.*pass rngs=\{'dropout': jax.random.key\(0\)\}",
    ),
    "training, as the model is made": (
        lambda: dropping("linen", evaluates=False),
        nas.GraphError,
        r"test_newcomers_finds.py:\d+: x = nn.Dropout.*without what turns training on \(train=False",
    ),
    "training, in a function": (
        lambda: dropping("function"),
        nas.GraphError,
        r"test_newcomers_finds.py:\d+: x = nn.Dropout.*without what turns training on.*pass the key as an input",
    ),
    "two trees to carry": (
        lambda: nas.delta_nout(*network(), {"a": -1}).carry({}, {}),
        nas.ArgumentError,
        r"found 2 arguments by position.*as a tuple: model, optimizer = mutation.carry\(\(model, optimizer\)\)",
    ),
    "a mutation for a network": (
        lambda: nas.delta_nout(nas.delta_nout(*network(), {"a": -1}), {"a": -1}),
        nas.GraphError,
        "found Mutation.*unpacks to one: graph, variables = ..., or put a star before it in the call",
    ),
    "a network for a graph": (
        lambda: nas.resize(network(), max_params=0.5),
        nas.GraphError,
        "found tuple.*put a star before it",
    ),
    "a model of nnx for its variables": (
        lambda: nas.save("none", network()[0], model()),
        nas.VariablesError,
        r"found \w+: .*nas.from_nnx\(model, x\)\[1\] gives those",
    ),
    "a mutation for its variables": (
        lambda: nas.delta_nout(network()[0], nas.delta_nout(*network(), {"a": -1}), {"a": -1}),
        nas.VariablesError,
        "found Mutation: .*put a star before it in the call",
    ),
    "too much to drop": (
        lambda: nas.delta_nout(*network(), {"a": -6}),
        nas.TooSmallError,
        "Drop 5 at the most, .*'a': -5.*remove_vertex",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    call, error, message = REFUSED[case]
    with pytest.raises(error, match=re.compile(message, re.DOTALL)):
        call()


def test_fractions_above_one_are_for_growth():
    assert nas.resize(*network(), max_params=1.0).plan.changed == {}
    assert nas.resize(*network(), max_params=1.4, request={"a": 1}).graph.nout("a") == 7
    grown = nas.resize(*network(), max_params=1.5, grow=True)
    assert all(axis.after >= axis.before for axis in grown.plan.axes.values())


def test_the_few_nearest_names_are_suggested():
    names = [f"block{i}/conv" for i in range(50)]
    assert unknown_name("block7/cnov", names).count("'") == 2 + 2 * 3
    assert "'block7/conv'" in unknown_name("block7/cnov", names)
    assert unknown_name("zzz", names).count("'") == 2 + 2 * 3
    assert "There is none" in unknown_name("zzz", [])


class Attending(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.stem = nnx.Linear(3, 8, rngs=rngs)
        self.bn0 = nnx.BatchNorm(8, use_running_average=True, rngs=rngs)
        self.attn = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
        self.head = nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(self.attn(self.bn0(self.stem(x))))


class Normalising(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=True, name="bn0")(nn.Dense(8, name="stem")(x))
        x = nn.MultiHeadDotProductAttention(2, name="attn")(x)
        return nn.Dense(2, name="head")(x)


def attending(kind: str) -> tuple[nas.Graph, nas.Variables]:
    x = jnp.ones((2, 5, 3))
    if kind == "nnx":
        return nas.from_nnx(Attending(nnx.Rngs(0)), x)
    variables = Normalising().init(jax.random.key(0), x)
    return nas.from_linen(Normalising(), variables, x)


@pytest.mark.parametrize("kind", ["linen", "nnx"])
def test_modules_that_make_no_neurons_say_whose_they_have(kind):
    graph, variables = attending(kind)
    calls = {
        "": lambda name: nas.delta_nout(graph, variables, {name: -1}),
        "min_size: ": lambda name: nas.resize(graph, variables, max_params=0.9, min_size={name: 2}),
        "multiple_of: ": lambda name: nas.resize(graph, variables, max_params=0.9, multiple_of={name: 2}),
    }
    for before, call in {**calls, "There": graph.nout}.items():
        with pytest.raises(nas.UnknownNameError) as caught:
            call("bn0")
        assert str(caught.value).startswith(before)
        assert str(caught.value).endswith("named 'bn0': it makes no neurons of its own, it has those of 'stem'.")
    with pytest.raises(nas.UnknownNameError, match=r"named 'attn'\. Handles below this name: ") as caught:
        calls[""]("attn")
    below = [name for name in graph.handles() if name.startswith(("attn/", "attn:"))]
    assert str(caught.value).endswith(f"below this name: {', '.join(map(repr, below))}.")
    for wrong in ("modle", "model/"):
        with pytest.raises(nas.UnknownNameError, match="Did you mean") as caught:
            calls[""](wrong)
        assert "'model'" not in str(caught.value), "a vertex, and no handle"


def test_names_in_graphs_by_hand_are_completed():
    x = nas.input_vertex("x", 3)
    block = nas.Graph(x, nas.layer("b", nn.Dense(5), nas.layer("a", nn.Dense(4), x)))
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("blocks/0", block, x)))
    variables = graph.init(jax.random.key(0), X)
    with pytest.raises(nas.UnknownNameError, match=r"named 'blocks'\. Handles below this name: 'blocks/0/x', "):
        nas.delta_nout(graph, variables, {"blocks": -1})
    with pytest.raises(nas.UnknownNameError, match="Did you mean: 'blocks/0'"):
        nas.delta_nout(graph, variables, {"blocks/1": -1})


def test_a_table_that_another_vertex_reads_is_no_whole_model():
    """Its variables lie beside the names of vertices, as those of an imported model do."""
    tokens = nas.input_vertex("tokens", 10, dtype="int32")
    embedded = nas.layer("embed", nn.Embed(10, 4), tokens)
    graph = nas.Graph(tokens, nas.attend("logits", embedded, embedded))
    variables = graph.init(jax.random.key(0), jnp.zeros((1, 7), "int32"))
    with pytest.raises(nas.NaiveNASError) as caught:
        nas.replace_layer(graph, variables, "logits", nn.Dense(10))
    assert "whole model" not in str(caught.value)
    imported = rebuildable()
    with pytest.raises(nas.StructureError, match="holds a whole model"):
        nas.replace_layer(imported.graph, imported.variables, "model", nn.Dense(2))


BROKEN = {
    "an input": ([X, X.at[1, 2].set(jnp.nan)], "Batch 1 is not finite: nan at (1, 2)"),
    "a leaf": ([{"x": X, "y": [X, X.at[0, 0].set(jnp.inf)]}], "Batch 0, at ['y'][1], is not finite: inf at (0, 0)"),
    "of numpy, in half precision": ([np.full((4, 3), -np.inf, np.float16)], "Batch 0 is not finite: -inf at (0, 0)"),
    "a number": ([(X, math.nan)], "Batch 0, at [1], is not finite: nan"),
}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("scores", [nas.taylor, nas.fisher, nas.activity])
def test_scores_of_batches_that_are_not_finite(case, scores):
    batches, message = BROKEN[case]
    arguments = () if scores is nas.activity else (lambda apply, variables, batch: loss(apply, variables, X),)
    if scores is nas.activity and case in ("a leaf", "a number"):
        message = message.replace("at [1]", "input 1")
    with pytest.raises(nas.UtilityError, match=re.escape(message)):
        scores(*network(), *arguments, batches)


def test_scores_that_become_infinite_are_refused_by_batch_and_neuron():
    def root(apply, variables, batch):
        return jnp.sqrt(jnp.sum(apply(variables, batch) * 0.0))  # the derivative of the root at 0 is infinite

    with pytest.raises(nas.UtilityError, match="taylor: with batch 1 the score of 'x' is not finite: nan at neuron 0"):
        nas.taylor(*network(), lambda *given: root(*given) if given[2].shape[0] == 2 else loss(*given), [X, X[:2]])


@pytest.mark.parametrize("batches", [(1, 2), [jnp.ones(3), 1.0], [{"x": jnp.ones((2, 3)), "y": jnp.ones((3, 3))}]])
def test_examples_lie_along_the_first_axis(batches):
    for call in (nas.fisher, lambda *given: nas.taylor(*given, each="example")):
        with pytest.raises(nas.UtilityError, match=r"Batch \d.*(first axis|loss_fn)"):
            call(*network(), lambda apply, variables, batch: jnp.float32(1), batches)


WHOLE = {
    "delta_nout": lambda n: nas.delta_nout(*network(), {"a": n(-1)}).graph.nout("a") == 5,
    "to": lambda n: nas.to(n(3)) == nas.to(3),
    "input_vertex": lambda n: nas.input_vertex("x", n(3), shape=(n(2), n(3))).op.shape == (2, 3),
    "max_params": lambda n: nas.resize(*network(), max_params=n(80)).graph.nout("a") < 6,
    "multiple_of": lambda n: nas.resize(*network(), max_params=0.8, multiple_of=n(2)).graph.nout("a") % 2 == 0,
    "max_new": lambda n: nas.delta_nout(*network(), {"a": 1}, max_new=n(2)).graph.nout("a") == 7,
    "position": lambda n: nas.create_edge(*network(), "c", "cat", position=n(0)).graph.inputs_of("cat")[0] == "c",
    "gradual": lambda n: nas.gradual(*network(), end=n(10), every=n(2), max_params=0.8).due(n(2)),
    "AxisPlan.of": lambda n: nas.AxisPlan.of(n(4), [n(1), n(0)]) == nas.AxisPlan.of(4, [1, 0]),
}


@pytest.mark.parametrize("number", [np.int32, np.uint8, np.array, jnp.array])
@pytest.mark.parametrize("case", WHOLE)
def test_whole_numbers_of_every_kind(case, number):
    if number is np.uint8 and case == "delta_nout":
        pytest.skip("negative")
    assert WHOLE[case](number)


@pytest.mark.parametrize("case", WHOLE)
def test_what_is_traced_is_no_number_yet(case):
    def traced(value):
        with pytest.raises(nas.NaiveNASError):
            WHOLE[case](lambda _: value)
        return value

    jax.jit(traced)(1)


def test_truths_are_no_numbers():
    for case in WHOLE:
        with pytest.raises(nas.NaiveNASError):
            WHOLE[case](lambda _: True)


class Own(nnx.Module):
    """Raises by itself."""

    def __call__(self, x):
        raise nas.RequestError("not like this")


def test_errors_of_ours_that_a_model_raises_stay_as_they_are():
    with pytest.raises(nas.RequestError, match="not like this"):
        nas.from_nnx(Own(), X)
