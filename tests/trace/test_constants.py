"""Constants with an entry per neuron, against the same function with its constants indexed by hand.

Each network is a function of its variables, an input and its constant; what is imported has the constant inside.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import naivenas_jax as nas


def _rand(seed: int, *shape: int) -> Any:
    return jax.random.normal(jax.random.key(seed), shape)


X = _rand(0, 4, 5)
V = {"params": {"a": _rand(1, 5, 6), "b": _rand(2, 6, 3)}}
TABLE = jnp.sin(jnp.arange(24.0).reshape(4, 6))
LOWER = jnp.tril(jnp.ones((6, 6)))


def _params(v: Any) -> tuple[Any, Any]:
    return v["params"]["a"], v["params"]["b"]


def _table(v: Any, x: Any, table: Any) -> Any:
    a, b = _params(v)
    return jnp.tanh(x @ a + table) @ b


def _masked_weights(v: Any, x: Any, masks: Any) -> Any:
    (a, b), (into, out) = _params(v), masks
    return jax.nn.relu(x @ (a * into)) @ jnp.where(out > 0, b, 0)


def _recurrent(v: Any, x: Any, mask: Any) -> Any:
    a, b = _params(v)
    h = x @ a
    for _ in range(2):
        h = jnp.tanh(h @ (v["params"]["h"] * mask) + h)
    return h @ b


def _loop(v: Any, x: Any, tables: Any) -> Any:
    a, b = _params(v)
    each, gate = tables

    @jax.jit
    def gated(h: Any, gate: Any) -> Any:
        return jnp.where(gate > 0, h, 0) * gate

    h, _ = lax.scan(lambda h, row: (jnp.tanh(gated(h, gate) + row + gate), None), x @ a, each)
    return h @ b


def _blurred(v: Any, x: Any, kernel: Any) -> Any:
    a, b = _params(v)
    h = jnp.repeat((x @ a)[:, None], 4, 1)
    how = {"dimension_numbers": ("NWC", "WIO", "NWC"), "feature_group_count": h.shape[-1]}
    return lax.conv_general_dilated(h, kernel, (1,), "SAME", **how) @ b


def _with_rule(v: Any, x: Any, scale: Any) -> Any:
    @jax.custom_vjp
    def scaled(h: Any, scale: Any) -> Any:
        return jnp.sin(h) * scale

    scaled.defvjp(
        lambda h, scale: (jnp.sin(h) * scale, (h, scale)),
        lambda r, g: (jnp.cos(r[0]) * r[1] * g, (jnp.sin(r[0]) * g).sum(0)),
    )
    a, b = _params(v)
    return scaled(x @ a, scale) @ b


def _centres(v: Any, x: Any, centres: Any) -> Any:
    return jnp.exp(-((x[..., None] - centres) ** 2)).sum(1) @ v["params"]["b"]


def _projection(v: Any, x: Any, matrix: Any) -> Any:
    return jnp.cos(x @ matrix) @ v["params"]["b"]


LAST = "b'1"  # the neurons that b reads, which only a constant makes
H = {"params": {**V["params"], "h": _rand(3, 6, 6)}}
B = {"params": {"b": V["params"]["b"]}}
#: The network, its variables, the handle, the constant, and how to index it.
CASES: dict[str, tuple[Any, Any, str, Any, Callable[[Any, Any], Any]]] = {
    "table": (_table, V, "a", TABLE, lambda c, k: c[:, k]),
    "array of numpy": (_table, V, "a", np.asarray(TABLE[0]), lambda c, k: c[k]),
    "masks": (_masked_weights, V, "a", (LOWER[:5], LOWER[:, :3]), lambda c, k: (c[0][:, k], c[1][k])),
    "one axis on both dimensions": (_recurrent, H, "a", 1 - jnp.eye(6), lambda c, k: c[k][:, k]),
    "loop and calls": (_loop, V, "a", (_rand(4, 3, 6), _rand(5, 6)), lambda c, k: (c[0][:, k], c[1][k])),
    "fixed filter": (_blurred, V, "a", _rand(6, 3, 1, 6), lambda c, k: c[..., k]),
    "custom derivative": (_with_rule, V, "a", _rand(7, 6), lambda c, k: c[k]),
    "centres": (_centres, B, LAST, jnp.linspace(-1, 1, 6), lambda c, k: c[k]),
    "projection": (_projection, B, LAST, _rand(8, 5, 6), lambda c, k: c[:, k]),
}


def _same(a: Any, b: Any) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), a, b)


@pytest.mark.parametrize("name", CASES)
def test_constants_are_cut_as_a_person_would_cut_them(name: str) -> None:
    """A shrink, another one of what is left, gradients; and growth keeps the function, also where neurons split."""
    fn, variables, handle, constant, cut = CASES[name]
    graph, variables = nas.from_function(lambda v, x: fn(v, x, constant), variables, X)
    first = nas.delta_nout(graph, variables, {handle: -2})
    kept = first.indices(handle)
    second = nas.delta_nout(first.graph, first.variables, {handle: -1})
    _same(first.graph.apply(first.variables, X), fn(first.variables, X, cut(constant, kept)))
    left = cut(constant, kept[second.indices(handle)])
    found = jax.value_and_grad(lambda v: jnp.sin(second.graph.apply(v, X)).sum())(second.variables)
    _same(found, jax.value_and_grad(lambda v: jnp.sin(fn(v, X, left)).sum())(second.variables))
    assert first.check(X).compared
    for new in (None, "split"):
        grown = nas.delta_nout(graph, variables, {handle: 2}, new=new)
        _same(grown.graph.apply(grown.variables, X), fn(variables, X, constant))


def test_what_reads_by_a_constant_is_coupled_and_grows_by_zeros() -> None:
    """No mask reaches a constant; a new neuron is read with 0, and its other entries are those of a present one."""
    matrix = _rand(9, 6, 4)
    v = {"params": {"a": V["params"]["a"], "b": _rand(3, 4, 2)}}
    fn = lambda v, x, m: jax.nn.softplus(x @ v["params"]["a"]) @ m @ v["params"]["b"]  # noqa: E731
    graph, v = nas.from_function(lambda v, x: fn(v, x, matrix), v, X)
    assert graph.handles()["a"].coupled == "it is contracted with a constant, of which no entry can be masked"
    cut = nas.delta_nout(graph, v, {"a": -2})
    _same(cut.graph.apply(cut.variables, X), fn(cut.variables, X, matrix[cut.indices("a")]))
    assert "contracted with a constant" in str(cut.check(X).reason)
    for new in (None, "split"):
        grown = nas.delta_nout(graph, v, {"a": 2}, new=new)
        _same(grown.graph.apply(grown.variables, X), fn(v, X, matrix))


def test_factors_of_a_constant() -> None:
    """A constant in another shape than the weights: heads side by side, and each by itself."""
    gate = _rand(4, 6)
    v = {"params": {"a": _rand(1, 5, 2, 3), "b": V["params"]["b"]}}

    def fn(v: Any, x: Any, gate: Any) -> Any:
        return (jnp.einsum("nd,dhf->nhf", x, v["params"]["a"]).reshape(len(x), -1) * gate) @ v["params"]["b"]

    graph, v = nas.from_function(lambda v, x: fn(v, x, gate), v, X)
    changed = nas.delta_nout(graph, v, {"a:0": -1, "a:1": 1})
    (head,), features = changed.indices("a:0"), changed.plan.axes["a:1"]
    like = np.where(features.source < 0, features.twin, features.source)  # a new feature has the entry of its twin
    assert like.tolist()[:3] == [0, 1, 2]
    _same(changed.graph.apply(changed.variables, X), fn(changed.variables, X, gate[head * 3 + like]))


class Normalised(nn.Module):
    """A table, statistics of batches, dropout, and a second call of the same constant in training."""

    width: int = 6

    @nn.compact
    def __call__(self, x: Any, train: bool = False) -> Any:
        table = np.cos(np.arange(self.width, dtype=np.float32) ** 2)
        h = nn.BatchNorm(use_running_average=not train, name="norm")(nn.Dense(self.width, name="up")(x))
        h = nn.Dropout(0.0, deterministic=not train)(nn.relu(h * table))
        return nn.Dense(2, name="down")(h + table)


def _normalised() -> tuple[Any, Any, Any]:
    module = Normalised()
    variables = module.init(jax.random.key(0), X)
    return module, *nas.from_linen(module, variables, X)


def _cut_module(table: Any) -> Any:
    """The same module with a table given by hand."""

    class Cut(nn.Module):
        @nn.compact
        def __call__(self, x: Any, train: bool = False) -> Any:
            h = nn.Dense(len(table), name="up")(x)
            h = nn.relu(nn.BatchNorm(use_running_average=not train, name="norm")(h) * table)
            return nn.Dense(2, name="down")(h + table)

    return Cut()


def test_other_calls_know_which_neurons_stayed() -> None:
    """Training, and another batch size, are traces of their own."""
    _, graph, v = _normalised()
    cut = nas.delta_nout(graph, v, {"up": -2}, utility={"up": np.array([3.0, 0, 2, 5, 1, 4])})
    table = np.cos(np.arange(6, dtype=np.float32) ** 2)[cut.indices("up")]
    more, by_hand = jnp.concatenate([X, -X]), _cut_module(table)
    _same(cut.graph.apply(cut.variables, more), by_hand.apply(cut.variables, more))
    training = {"train": True, "mutable": ["batch_stats"]}
    rngs = {"dropout": jax.random.key(1)}
    _same(cut.graph.apply(cut.variables, X, rngs=rngs, **training), by_hand.apply(cut.variables, X, **training))


def test_a_chain_of_changes() -> None:
    """Growth, a shrink of old and new neurons, a plan of both, and back."""
    graph, v = nas.from_function(lambda v, x: _table(v, x, TABLE), V, X)
    grown = nas.delta_nout(graph, v, {"a": 3}, new="split")
    cut = nas.delta_nout(
        grown.graph, grown.variables, {"a": -4}, utility={"a": np.array([0, 0, 5, 4, 0, 3, 2, 6, 0.0])}
    )
    like = np.where(grown.plan.axes["a"].source < 0, grown.plan.axes["a"].twin, grown.plan.axes["a"].source)
    kept = like[cut.indices("a")]
    _same(cut.graph.apply(cut.variables, X), _table(cut.variables, X, TABLE[:, kept]))
    assert nas.Plan.from_json((cut.plan @ grown.plan).to_json()) == cut.plan @ grown.plan
    before, back = cut.undo(cut.variables)
    _same(before.apply(back, X), grown.graph.apply(grown.variables, X))
    carried = cut.carry(jax.tree.map(jnp.ones_like, grown.variables["params"]))
    assert jax.tree.map(jnp.shape, carried) == jax.tree.map(jnp.shape, cut.variables["params"])
    same = nas.delta_nout(*nas.delta_nout(graph, v, {"a": 2}), {"a": -2}, utility={"a": np.arange(8.0)[::-1]})
    assert same.graph == graph  # the constant is whole again, so nothing has to be compiled anew


def test_a_model_is_loaded_by_its_plan() -> None:
    """Sizes do not say which entries of a constant stayed; the plan of all changes does."""
    fn = lambda v, x: _table(v, x, TABLE)  # noqa: E731
    graph, v = nas.from_function(fn, V, X)
    first = nas.delta_nout(graph, v, {"a": -3}, utility={"a": np.array([0, 4, 3, 0, 0, 5.0])})
    second = nas.delta_nout(first.graph, first.variables, {"a": 2})
    plan = nas.Plan.from_json((second.plan @ first.plan).to_json())
    loaded = nas.delta_nout(*nas.from_function(fn, V, X), plan).graph
    _same(loaded.apply(second.variables, X), second.graph.apply(second.variables, X))


def test_plans_of_other_graphs_are_refused() -> None:
    graph, v = nas.from_function(lambda v, x: _table(v, x, TABLE), V, X)
    cut = nas.delta_nout(graph, v, {"a": -3})
    with pytest.raises(nas.PlanError, match="'a' has 6 neurons, here it has 3"):
        nas.delta_nout(*cut, cut.plan)
    edited = nas.delta_nout(graph, v, cut.plan)
    assert edited.graph == cut.graph
    wrong = {**cut.plan.axes, "a": nas.AxisPlan.of(6, [0, 1, 2, 5])}
    with pytest.raises(nas.PlanError, match="contradicts the ties of the graph"):
        nas.delta_nout(graph, v, dataclasses.replace(cut.plan, axes=wrong))


def test_edits_inside_after_a_cut() -> None:
    """The edited model is traced with its constants cut, and is cut again after that."""
    _, graph, v = _normalised()
    cut = nas.delta_nout(graph, v, {"up": -2})
    wider = nas.insert_vertex(*cut, "up", lambda h: nas.layer("extra", nn.Dense(4), h))
    _same(wider.graph.apply(wider.variables, X), cut.graph.apply(cut.variables, X))
    again = nas.delta_nout(*wider, {"extra": -1})
    table = np.cos(np.arange(6, dtype=np.float32) ** 2)[cut.indices("up")][again.indices("extra")]
    again.check(X)
    h = X @ again.variables["params"]["up"]["kernel"] + again.variables["params"]["up"]["bias"]
    h = h @ again.variables["params"]["extra"]["kernel"] + again.variables["params"]["extra"]["bias"]
    norm = nn.BatchNorm(use_running_average=True).apply(_norm_of(again.variables), h)
    down = again.variables["params"]["down"]
    out = (nn.relu(norm * table) + table) @ down["kernel"] + down["bias"]
    _same(again.graph.apply(again.variables, X), out)


def _norm_of(variables: Any) -> Any:
    return {kind: variables[kind]["norm"] for kind in ("params", "batch_stats")}


def test_rebuild_gives_no_other_function() -> None:
    """The class makes its constant anew: the same one where the last neurons went, another one elsewhere."""
    module, graph, v = _normalised()
    ends = nas.delta_nout(graph, v, {"up": -2}, utility={"up": np.arange(6.0)[::-1]})
    assert nas.rebuild(module, ends).width == 4
    others = nas.delta_nout(graph, v, {"up": -2}, utility={"up": np.arange(6.0)})
    with pytest.raises(nas.RebuildError, match="has constants with an entry for each neuron"):
        nas.rebuild(module, others)


def test_what_is_added_to_a_weight_is_fixed() -> None:
    """A stored 0 would be no weight of 0."""
    graph, _ = nas.from_function(lambda v, x: jnp.tanh(x @ (_params(v)[0] + TABLE[0])) @ _params(v)[1], V, X)
    assert "a" not in graph.handles()
    fixed = graph.fixed()
    assert all("a constant is added to a weight of it" in reason for reason in fixed.values())
    assert len(fixed) == 2


def test_what_is_added_to_parameters_of_neurons_is_cut() -> None:
    """Offsets of a fixed grid, positions that are learned besides: nothing reads neurons by them."""
    v = {"params": {**V["params"], "moved": _rand(3, 4, 6), "width": _rand(4, 6)}}

    def fn(v: Any, x: Any, table: Any) -> Any:
        p = v["params"]
        h = (x @ p["a"] + (p["moved"] + table)) * jnp.where(table[0] > 0, p["width"], 2.0)
        return jnp.exp(-(h**2)) @ p["b"]

    graph, v = nas.from_function(lambda v, x: fn(v, x, TABLE), v, X)
    cut = nas.delta_nout(graph, v, {"a": -2})
    _same(cut.graph.apply(cut.variables, X), fn(cut.variables, X, TABLE[:, cut.indices("a")]))
    for new in (None, "split"):
        grown = nas.delta_nout(graph, v, {"a": 2}, new=new)
        _same(grown.graph.apply(grown.variables, X), fn(v, X, TABLE))


def test_neurons_of_constants_alone_are_fixed() -> None:
    """Nobody can ask for them."""
    graph, v = nas.from_function(lambda v, x: (x @ _params(v)[0])[..., None] * jnp.arange(3.0), V, X)
    assert "nothing but constants of the model has these neurons" in graph.fixed()["output"]
    assert nas.summary(graph, v) is not None


@pytest.mark.parametrize("beside", ["features", "time", "behind"])
@pytest.mark.parametrize("change", [-2, 3])
def test_an_array_of_no_entries_has_no_neurons(beside: str, change: int) -> None:
    """Features of edges that there are not, a memory of no steps: what stands beside them grows by itself."""

    def fn(v: Any, x: Any) -> Any:
        (a, b), nothing = _params(v), jnp.zeros((4, 0))
        h = jnp.tanh(x @ a)
        if beside == "features":
            h = jnp.concatenate([h, nothing], -1)
        elif beside == "time":
            h = jnp.concatenate([jnp.zeros((0, h.shape[-1])), h])
        else:
            h = jnp.concatenate([nothing, h, nothing + 1.0], -1)
        return h @ b

    graph, v = nas.from_function(fn, V, X)
    mutation = nas.delta_nout(graph, v, {"a": change})
    assert mutation.graph.handles()["a"].size == 6 + change
    _same(mutation.graph.apply(mutation.variables, X), fn(mutation.variables, X))
    assert mutation.check(X).compared
    if beside != "time":
        assert set(graph.handles()) == {"x", "a", "b", "output"}
