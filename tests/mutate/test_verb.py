"""What the verbs have in common: keywords that are shown and kept, and a short way to their own work."""

import inspect
import pydoc
import sys
from dataclasses import fields

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax.core import FrozenDict, freeze

import naivenas_jax as nas
from naivenas_jax.mutate.around import keywords as kw
from naivenas_jax.mutate.request.options import Options

X = jnp.ones((2, 8, 8, 3))
AROUND = ("fallback", "on_change", "inputs")
SIZES = ("utility", "rng", "time_limit", "max_new", "free_outputs", "constraints", "minimise", "layer_keywords")


def network():
    x = nas.input_vertex("x", 3, shape=(8, 8, 3))
    a = nas.layer("a", nn.Conv(4, (3, 3)), x)
    b = nas.layer("b", nn.Conv(4, (3, 3)), x)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.concat("cat", a, b)))
    return graph, graph.init(jax.random.key(0), X)


#: Every verb: the call, and the common keywords it has.
VERBS = {
    "delta_nout": (({"a": -1},), {}, (*AROUND, *SIZES)),
    "delta_nin": (({"cat": (-1, None)},), {}, (*AROUND, *SIZES)),
    "resize": ((), {"request": {"a": -1}}, (*AROUND, *SIZES)),
    "insert_vertex": (("a", lambda v: nas.layer("new", nn.Dense(v.nout), v)), {}, (*AROUND, *SIZES, "align")),
    "remove_vertex": (("a",), {}, (*AROUND, *SIZES, "align")),
    "create_edge": (("x", "cat"), {}, (*AROUND, *SIZES, "align")),
    "remove_edge": (("a", "cat"), {}, (*AROUND, *SIZES, "align")),
    "replace_layer": (("a", nn.Conv(4, (1, 1))), {}, (*AROUND, *SIZES, "align")),
    "map_vertices": ((lambda v: None,), {}, (*AROUND, *SIZES, "align")),
    "rename": (({"a": "stem"},), {}, AROUND),
    "change_kernel": (({"a": (5, 5)},), {}, AROUND),
}
each_verb = pytest.mark.parametrize("name", VERBS)


@each_verb
def test_all_keywords_are_shown_with_their_defaults(name):
    shown = inspect.signature(getattr(nas, name)).parameters
    assert all(one.kind is not inspect.Parameter.VAR_KEYWORD for one in shown.values())
    for keyword in VERBS[name][2]:
        assert shown[keyword].kind is inspect.Parameter.KEYWORD_ONLY
        assert shown[keyword].default is kw.DEFAULTS[keyword]
        assert keyword in pydoc.render_doc(getattr(nas, name))


def test_types_and_defaults_speak_of_the_same_keywords():
    typed = kw.EditKeywords.__annotations__.keys() | kw.ChainKeywords.__annotations__.keys()
    assert typed == kw.DEFAULTS.keys()
    known = kw.EditKeywords.__annotations__.keys() | {"new", "gap"}
    assert {field.name for field in fields(Options)} - {"deadline"} | set(AROUND) == known


@each_verb
def test_callbacks_trial_and_tree(name):
    graph, variables = network()
    arguments, keywords, _ = VERBS[name]
    verb, seen = getattr(nas, name), []
    made = verb(graph, freeze(variables), *arguments, on_change=seen.append, inputs=X, **keywords)
    assert seen == [made]
    assert isinstance(made.variables, FrozenDict)
    with pytest.raises(nas.GraphError, match=r"inputs= needs one array or shape per input of the graph \(x\), found 2"):
        verb(graph, variables, *arguments, inputs=(X, X), **keywords)
    with pytest.raises(nas.RequestError, match=r"fallback= takes steps.*found 3"):
        verb(graph, variables, *arguments, fallback=3, **keywords)


@each_verb
def test_the_network_is_checked(name):
    graph, variables = network()
    arguments, keywords, _ = VERBS[name]
    with pytest.raises(nas.GraphError, match=r"first argument must be a nas\.Graph.*found str"):
        getattr(nas, name)("graph", variables, *arguments, **keywords)
    with pytest.raises(nas.VariablesError, match="no variables\\['params'\\]"):
        getattr(nas, name)(graph, {}, *arguments, **keywords)


@each_verb
def test_keywords_that_there_are_not(name):
    graph, variables = network()
    arguments, keywords, _ = VERBS[name]
    message = rf"nas\.{name}: got an unexpected keyword argument 'colour'\. It takes graph, variables, "
    with pytest.raises(nas.ArgumentError, match=message) as caught:
        getattr(nas, name)(graph, variables, *arguments, colour="red", **keywords)
    assert isinstance(caught.value, TypeError)
    with pytest.raises(TypeError, match=r"missing.* required .*'variables'"):
        getattr(nas, name)(graph)


@each_verb
def test_a_verb_is_three_frames_deep_before_its_own_work(name):
    """Behind the door that all public functions have."""
    graph, variables = network()
    arguments, keywords, _ = VERBS[name]
    verb, depths = getattr(nas, name).__wrapped__, []
    own = inspect.unwrap(verb).__code__
    here = sys._getframe()

    def watch(frame, event, argument):
        if event == "call" and frame.f_code is own:
            depth = 0
            while frame is not here:
                frame, depth = frame.f_back, depth + 1
            depths.append(depth)

    sys.setprofile(watch)
    try:
        verb(graph, variables, *arguments, **keywords)
    finally:
        sys.setprofile(None)
    assert depths == [depths[0]]
    assert depths[0] <= 3


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (nas.fallback, ["accept", "keep", "log", "nearest", "relax", "warn"]),
        (nas.watch, ["SizeChange", "check", "log"]),
    ],
)
def test_namespaces_show_what_is_meant(module, names):
    assert dir(module) == sorted(module.__all__) == names
    shown = pydoc.render_doc(module, renderer=pydoc.plaintext)
    assert all(name in shown for name in names)
    assert "NaiveNASError(" not in shown


def test_a_mutation_hides_no_fields():
    assert [field.name for field in fields(nas.Mutation) if field.name.startswith("_")] == []
    assert "\n |  _records" not in pydoc.render_doc(nas.Mutation, renderer=pydoc.plaintext)
