"""A history says which network came from which, composes their plans, and is written, printed and drawn."""

import dataclasses
import json
import xml.etree.ElementTree as ET

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import naivenas_jax as nas

KEY = jax.random.key(0)


def network():
    x = nas.input_vertex("x", 4)
    hidden = nas.invariant_vertex("act", nn.relu, nas.layer("hidden", nn.Dense(9), x))
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("deep", nn.Dense(7), hidden)))
    return graph, graph.init(KEY, jnp.ones((1, 4)))


def family():
    """Two lines from one network, and a child of both; with the mutations by name."""
    start = network()
    made = {"a": nas.delta_nout(*start, {"hidden": -4}, utility={"hidden": [5, 1, 9, 2, 8, 3, 7, 4, 6.0]})}
    made["b"] = nas.delta_nout(*start, {"hidden": 3, "deep": -2})
    made["c"] = nas.insert_vertex(*made["a"], "deep", lambda v: nas.invariant_vertex("late", jnp.tanh, v))
    made["d"] = nas.delta_nout(*made["c"], {"hidden": -2, "deep": 1})
    made["e"] = nas.crossover(made["a"], made["b"], jax.random.key(3))
    history = nas.History().add("start", start)
    for name, parents in {"a": "start", "b": "start", "c": "a", "d": "c", "e": ("a", "b")}.items():
        history = history.add(name, made[name], parents)
    return history, made


def test_plans_are_composed_along_first_parents():
    history, made = family()
    assert history.path("d") == ("start", "a", "c", "d")
    plan = history.plan("start", "d")
    assert plan == made["d"].plan @ (made["c"].plan @ made["a"].plan)
    expected = made["a"].indices("hidden")[made["d"].indices("hidden")]  # d only drops
    np.testing.assert_array_equal(plan.axis("hidden").source, expected)
    assert history.plan("a", "e") == made["e"].plan
    assert history.plan("start", "e") == made["e"].plan @ made["a"].plan
    for name in history.entries:
        still = history.plan(name, name)
        assert not still.changed
        alone, both = history.plan("start", name), still @ history.plan("start", name)
        for path, dims in alone.leaves.items():
            for one, two in zip(dims, both.leaves[path], strict=True):
                assert (one is None) == (two is None)
                assert one is None or np.array_equal(alone.axes[one].source, both.axes[two].source)
    with pytest.raises(nas.PlanError, match="through the second parent of a crossover"):
        history.plan("b", "e")
    with pytest.raises(nas.PlanError, match=r"start='d' is no ancestor of 'a' .* which are start, a\."):
        history.plan("d", "a")


def test_a_composed_plan_carries_what_each_step_would_carry():
    history, made = family()
    _, variables = network()
    bias = np.arange(9.0)
    for name in ("a", "c", "d"):
        source = made[name].indices("hidden")
        bias = np.where(source < 0, 0, bias[source])
    source = history.plan("start", "d").axis("hidden").source
    np.testing.assert_array_equal(np.where(source < 0, 0, np.arange(9.0)[source]), bias)
    assert variables["params"]["hidden"]["bias"].shape == (9,)


def test_what_was_done_is_said_in_words():
    history, _ = family()
    assert [(entry.name, entry.parents, entry.kind) for entry in history] == [
        ("start", (), "start"),
        ("a", ("start",), "delta_nout"),
        ("b", ("start",), "delta_nout"),
        ("c", ("a",), "insert_vertex"),
        ("d", ("c",), "delta_nout"),
        ("e", ("a", "b"), "crossover"),
    ]
    assert history["a"].change == "delta_nout: 'hidden' 9 -> 5"
    assert history["c"].change == "insert_vertex: 'late' is new"
    assert history["e"].change.startswith("crossover: from the second network '")
    assert history["start"].parameters == 4 * 9 + 9 + 9 * 7 + 7 + 7 * 2 + 2
    assert history["d"].sizes == {"x": 4, "hidden": 3, "act": 3, "deep": 8, "late": 8, "out": 2}
    graph, variables = network()
    drawn = nas.random_mutation(graph, variables, KEY)
    entry = nas.History().add(0, (graph, variables)).add(1, drawn, 0)[1]
    assert entry.change == drawn.notes[0] == entry.notes[0]
    assert entry.kind == drawn.kind == entry.change.split(":")[0]
    removed = nas.remove_vertex(graph, variables, "act")
    renamed = nas.rename(graph, variables, {"deep": "low"})
    told = nas.History().add(0, graph).add("r", removed, 0).add("n", renamed, 0)
    assert told["r"].change == "remove_vertex: 'act' is gone"
    assert told["n"].change == "rename: 'deep' is 'low' now"
    assert told[0].parameters is None


def test_a_lineage_is_a_network_with_all_of_its_ancestors():
    history, _ = family()
    assert [entry.name for entry in history.lineage("e")] == ["start", "a", "b", "e"]
    assert [entry.name for entry in history.lineage("b", "c")] == ["start", "a", "b", "c"]
    assert history.lineage("e").plan("start", "e") == history.plan("start", "e")
    assert len(history.lineage()) == 0
    assert history.children("b") == ("e",)
    assert history.children("a") == ("c", "e")


def test_it_prints_as_a_tree():
    history, _ = family()
    history = history.with_values("d", {"loss": jnp.float32(0.25), "epochs": np.int64(3)})
    lines = [[cell.strip() for cell in line.split("│")] for line in str(history).splitlines() if line[0] == "│"]
    drawn = [line.split(" ")[1:] for line in str(history).splitlines() if "●" in line or "○" in line]
    names = [next(word for word in words if word in history) for words in drawn]
    assert names == ["start", "a", "c", "d", "e", "b"]
    text = str(history)
    assert "│ ● start " in text
    assert "│ ├─○ a " in text
    assert "│ │ ├─○ c " in text
    assert "│ │ │ ○ d " in text  # an only child hangs where its parent does
    assert "│ │ └─○ e " in text
    assert "│ └─○ b " in text
    assert "(with b)" in text
    assert any(line[-3:] == ["0.25", "3", ""] for line in lines)
    deep = nas.History().add(0, graph := network()[0])
    same = nas.rename(graph, network()[1], {})
    for number in range(1, 600):
        deep = deep.add(number, same, number - 1)
    assert len(str(deep).splitlines()) == 604
    assert len(deep.path(599)) == 600


def test_pictures_are_well_formed_and_show_everything():
    history, _ = family()
    history = history.add('<"&', network(), values={"w#1": 'a "word"'})
    root = ET.fromstring(history.svg())
    texts = [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert set(texts[::2]) == {entry.name for entry in history}
    circles = len(list(root.iter("{http://www.w3.org/2000/svg}circle")))
    dashed = [each for each in root.iter("{http://www.w3.org/2000/svg}path") if each.get("stroke-dasharray")]
    assert (circles, len(dashed)) == (7, 1)
    chart = history.mermaid().splitlines()
    assert chart[0] == "flowchart TD"
    assert sum("-.->" in line for line in chart) == 1
    assert sum("-->" in line for line in chart) == 5
    assert chart[7] == '    n6["&lt;#quot;&amp;<br>w#35;1: a #quot;word#quot;"]'
    ET.fromstring(nas.History().svg())


def test_json_gives_the_same_history_back():
    history, _ = family()
    history = history.with_values("a", {"loss": float("inf"), "good": True, "why": "tried", "none": None, "n": 3})
    text = history.to_json()
    back = nas.History.from_json(text)
    assert back == history
    assert hash(back) == hash(history)
    assert back.plan("start", "d") == history.plan("start", "d")
    assert str(back) == str(history)
    json.loads(text, parse_constant=lambda name: pytest.fail(name))  # strict JSON
    nan = nas.History.from_json(history.with_values("a", {"loss": float("nan")}).to_json())
    assert np.isnan(nan["a"].values["loss"])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data.update(format="other"),
        lambda data: data.pop("entries"),
        lambda data: data["entries"].reverse(),
        lambda data: data["entries"].append(data["entries"][0]),
        lambda data: data["entries"][1].update(sizes={"hidden": 8}),
        lambda data: data["entries"][1].update(values={"a": [1]}),
        lambda data: data["entries"][1].update(name=3),
        lambda data: data["entries"][1].update(parameters="many"),
        lambda data: data["entries"][1]["plan"].update(axes={}),
        lambda data: data["entries"][1].pop("kind"),
    ],
    ids=range(10),
)
def test_other_json_is_refused(spoil):
    data = json.loads(family()[0].to_json())
    spoil(data)
    with pytest.raises(nas.PlanError, match=r"This is not a history written by History\.to_json: "):
        nas.History.from_json(json.dumps(data))
    with pytest.raises(nas.PlanError, match="This is not a history"):
        nas.History.from_json("{")


def test_no_arrays_are_held_unless_asked():
    graph, variables = network()
    mutation = nas.delta_nout(graph, variables, {"hidden": -1})
    trained = jax.tree.map(lambda a: a + 1, mutation.variables)
    history = nas.History().add("a", (graph, variables)).add("b", (mutation, trained), "a", keep=True)
    held = [field for entry in history for field in dataclasses.astuple(dataclasses.replace(entry, network=None))]
    assert not any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(held))
    with pytest.raises(nas.PlanError, match="does not hold the arrays of 'a': add it with keep=True"):
        history.network("a")
    own, arrays = history.network("b")
    assert own == mutation.graph
    np.testing.assert_array_equal(arrays["params"]["out"]["bias"], trained["params"]["out"]["bias"])
    assert nas.History.from_json(history.to_json()) == history  # which holds none


def test_what_cannot_be_is_refused():
    graph, variables = network()
    narrow = nas.delta_nout(graph, variables, {"hidden": -1})
    history = nas.History().add("a", graph).add("b", narrow, "a")
    with pytest.raises(nas.DuplicateNameError, match="has a network 'b' already"):
        history.add("b", narrow, "a")
    with pytest.raises(nas.UnknownNameError, match=r"has no network 'bb'\. Did you mean: 'b'"):
        history.add("c", narrow, "bb")
    with pytest.raises(nas.PlanError, match=r"does not start from 'b': there 'hidden' has 8 neurons, before .* 9"):
        history.add("c", narrow, "b")
    with pytest.raises(nas.PlanError, match="'c' is a mutation, and parents= does not say of which network"):
        history.add("c", narrow)
    with pytest.raises(nas.PlanError, match="'c' comes from 'a', and how is not known"):
        history.add("c", tuple(narrow), "a")
    with pytest.raises(nas.PlanError, match="network= takes a mutation"):
        history.add("c", 3, "a")
    with pytest.raises(nas.RequestError, match=r"values\['v'\] must be one number, a word"):
        history.add("c", narrow, "a", values={"v": np.ones(2)})
    with pytest.raises(nas.RequestError, match="name must be a word or a whole number"):
        history.add(None, narrow, "a")
    with pytest.raises(nas.PlanError, match="keep=True holds a graph and its variables"):
        history.add("c", graph, keep=True)
    with pytest.raises(nas.UnknownNameError, match="It is empty"):
        nas.History()["a"]


def test_imported_models():
    model = nnx.Sequential(nnx.Linear(4, 8, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(8, 2, rngs=nnx.Rngs(1)))
    graph, variables = nas.from_nnx(model, jnp.ones((2, 4)))
    history = nas.History().add(0, (graph, variables))
    state = optax.adam(1e-3).init(variables["params"])
    mutation = nas.random_mutation(graph, variables, KEY, ["width_down"])
    history = history.add(1, mutation, 0)
    inserted = nas.random_mutation(*mutation, jax.random.key(1), ["insertion"])
    history = history.add(2, inserted, 1)
    assert history[0].parameters == 4 * 8 + 8 + 8 * 2 + 2 > history[1].parameters
    assert history.plan(0, 2) == inserted.plan @ mutation.plan
    assert nas.History.from_json(history.to_json()) == history
    assert history[2].change.startswith("insertion: ")
    assert mutation.carry(state) is not None
