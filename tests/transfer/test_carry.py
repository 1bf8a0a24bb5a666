"""Carried trees against an independent oracle: a fresh optax state, and old values placed with plain numpy."""

from __future__ import annotations

import logging
from functools import cache, partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.core import FrozenDict

from naivenas_jax.align.axis_plan import NEW, AxisPlan
from naivenas_jax.align.plan import Plan
from naivenas_jax.errors import CarryError, PlanError
from naivenas_jax.transfer.carrying.carry import carry

SIZES = {"in": 2, "a": 4, "b": 4, "out": 3}
DIMS = {
    "conv1": {"kernel": (3, 3, "in", "a"), "bias": ("a",)},
    "conv2": {"kernel": (3, 3, "a", "b"), "bias": ("b",)},
    "norm": {"scale": ("b",), "bias": ("b",)},
    "head": {"kernel": ("b", "out"), "bias": ("out",)},
    "gain": {"gain": ()},
}
CHANGES = {
    "shrink": {"a": [0, 3]},
    "grow": {"b": [0, 1, 2, 3, NEW, NEW]},
    "mixed": {"a": [1, NEW, 3], "b": [0, NEW, 2, 3, NEW]},
    "same size": {"a": [0, NEW, 2, 3], "b": [1, 2, 3, NEW]},
    "permute": {"a": [3, 1, 0, 2], "b": [2, 3, 0, 1]},
    "nothing": {},
}


def mask_kernels(params):
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def label_by_layer(params):
    return {layer: "slow" if layer == "conv2" else "fast" for layer in params}


OPTIMIZERS = {
    "adam": lambda: optax.adam(1e-2),
    "adam in bfloat16": lambda: optax.adam(1e-2, mu_dtype=jnp.bfloat16),
    "adamw, clipped and scheduled": lambda: optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(optax.cosine_decay_schedule(1e-2, 10))
    ),
    "sgd": lambda: optax.sgd(1e-2),
    "sgd with momentum": lambda: optax.sgd(1e-2, momentum=0.9),
    "masked": lambda: optax.masked(optax.adam(1e-2), mask_kernels),
    "multi_transform": lambda: optax.multi_transform(
        {"fast": optax.adam(1e-2), "slow": optax.sgd(1e-3, momentum=0.9)}, label_by_layer
    ),
    "inject_hyperparams": lambda: optax.inject_hyperparams(optax.adam)(1e-2),
    "MultiSteps": lambda: optax.MultiSteps(optax.adam(1e-2), 3),
    "lamb": lambda: optax.lamb(1e-2),
    "adafactor": lambda: optax.adafactor(1e-2, min_dim_size_to_factor=3),
    "adafactor with momentum": lambda: optax.adafactor(1e-2, momentum=0.9),
    "schedule_free": lambda: optax.contrib.schedule_free_adamw(1e-2),
    "muon": lambda: optax.contrib.muon(1e-2),
}


def shapes(dims, sizes):
    return {layer: {k: tuple(sizes.get(d, d) for d in v) for k, v in leaves.items()} for layer, leaves in dims.items()}


def random(shapes, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda s: jnp.asarray(rng.normal(size=s), jnp.float32), shapes, is_leaf=lambda x: isinstance(x, tuple)
    )


def make(change, sizes=SIZES, dims=DIMS, created=None, removed=()):
    """A plan, and old and new parameters of these shapes."""
    axes = {name: AxisPlan.of(size, change.get(name, range(size))) for name, size in sizes.items()}
    created = created or {}
    new_dims = {layer: leaves for layer, leaves in dims.items() if layer not in removed} | created
    plan = Plan(
        axes,
        {
            ("params", layer, k): tuple(d if isinstance(d, str) else None for d in v)
            for layer, leaves in new_dims.items()
            for k, v in leaves.items()
        },
        created=frozenset(("params", layer, k) for layer in created for k in created[layer]),
        removed=frozenset(("params", layer, k) for layer in removed for k in dims[layer]),
    )
    new_sizes = {name: axis.after for name, axis in axes.items()}
    return plan, random(shapes(dims, sizes), 0), random(shapes(new_dims, new_sizes), 1)


def trained(tx, params, steps=2):
    """A state whose every statistic has moved away from its start."""
    state, update = tx.init(params), jax.jit(tx.update)
    for step in range(steps):
        updates, state = update(random(jax.tree.map(lambda p: p.shape, params), 10 + step), state, params)
        params = optax.apply_updates(params, updates)
    return state


@cache
def trained_state(optimizer):
    """That of the parameters that ``make`` gives unless told otherwise; training is what takes time here."""
    return trained(OPTIMIZERS[optimizer](), random(shapes(DIMS, SIZES), 0))


def placed(old, blank, sources):
    """What ``take`` should give, entry by entry as the definition reads."""
    kept = [
        np.arange(n) if s is None else np.flatnonzero(np.asarray(s) != NEW)
        for n, s in zip(blank.shape, sources, strict=True)
    ]
    origin = [k if s is None else np.asarray(s)[k] for k, s in zip(kept, sources, strict=True)]
    out = np.array(blank)
    out[np.ix_(*kept)] = np.asarray(old)[np.ix_(*origin)]
    return out


def by_name(tree):
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def parameter_of(name, dims=DIMS):
    """The dimensions of the parameter that a leaf's name ends with."""
    return next((v for m, ls in dims.items() for k, v in ls.items() if name.endswith(f"['{m}']['{k}']")), None)


def check_entries(old, new, fresh, change):
    """Kept entries are the old ones, new entries those of a fresh start; scalars are the old ones."""
    old, new, fresh = by_name(old), by_name(new), by_name(fresh)
    assert new.keys() == fresh.keys()
    for name, leaf in new.items():
        dims = parameter_of(name)
        unused = leaf.shape == (1,) and ".v_" in name  # Adafactor's place holder where it does not factor
        if dims is None or unused or leaf.ndim == 0:
            np.testing.assert_array_equal(leaf, old[name], err_msg=name)
        else:
            sources = [change.get(d) for d in dims]
            np.testing.assert_array_equal(leaf, placed(old[name], fresh[name], sources), err_msg=name)


@pytest.mark.parametrize("with_fresh", [False, True], ids=["", "fresh"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("optimizer", [k for k in OPTIMIZERS if k != "adafactor"])
def test_kept_neurons_keep_their_moments_and_new_ones_start_afresh(optimizer, change, with_fresh):
    tx = OPTIMIZERS[optimizer]()
    plan, old, new = make(change)
    state, fresh = trained_state(optimizer), tx.init(new)
    carried, report = carry(plan, state, {"params": old}, {"params": new}, fresh=fresh if with_fresh else None)
    chex.assert_trees_all_equal_shapes_and_dtypes(carried, fresh)
    assert jax.tree.structure(carried) == jax.tree.structure(fresh)
    check_entries(state, carried, fresh, change)
    assert report.restarted == ()
    assert set(report.carried) == set(by_name(carried))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_goes_on_under_jit(optimizer):
    tx = OPTIMIZERS[optimizer]()
    plan, old, new = make(CHANGES["mixed"])
    carried, _ = carry(plan, trained_state(optimizer), {"params": old}, {"params": new}, fresh=tx.init(new))
    grads = random(jax.tree.map(lambda p: p.shape, new), 5)
    updates, state = jax.jit(tx.update)(grads, carried, new)
    chex.assert_tree_all_finite(updates)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, carried)


def test_surviving_neurons_train_as_if_nothing_had_happened():
    """Adam works entry by entry, so cutting first and stepping then must equal stepping first and cutting then."""
    change, tx = CHANGES["shrink"], optax.adam(1e-2)
    plan, old, new = make(change)
    cut = lambda tree: carry(plan, tree, {"params": old}, {"params": new})[0]  # noqa: E731
    state, grads = trained(tx, old), random(jax.tree.map(lambda p: p.shape, old), 7)
    chex.assert_trees_all_equal(tx.update(cut(grads), cut(state))[0], cut(tx.update(grads, state)[0]))


@pytest.mark.parametrize("with_collections", [False, True])
def test_an_optimizer_initialised_on_all_variables(with_collections):
    tx, (plan, old, new) = optax.adam(1e-2), make(CHANGES["mixed"])
    stats = {"norm": {"mean": jnp.arange(4.0)}}
    plan = Plan(plan.axes, {**plan.leaves, ("batch_stats", "norm", "mean"): ("b",)})
    before = {"params": old, "batch_stats": stats}
    after = {"params": new, "batch_stats": {"norm": {"mean": jnp.zeros(5)}}}
    pick = (lambda variables: variables) if with_collections else (lambda variables: variables["batch_stats"])
    carried, _ = carry(plan, tx.init(pick(before)), before, after)
    chex.assert_trees_all_equal_shapes_and_dtypes(carried, tx.init(pick(after)))
    assert carry(plan, before, before, after)[0]["batch_stats"]["norm"]["mean"].tolist() == [0, 0, 2, 3, 0]


EXTRA = {"extra": {"kernel": ("b", "b"), "bias": ("b",)}, "zz": {"scale": ("b",)}}


@pytest.mark.parametrize("with_fresh", [False, True], ids=["", "fresh"])
@pytest.mark.parametrize(("created", "removed"), [(EXTRA, ()), ({}, ("norm", "gain")), (EXTRA, ("norm",))])
@pytest.mark.parametrize("optimizer", ["adam", "adam in bfloat16", "sgd", "MultiSteps", "lamb", "schedule_free"])
def test_created_and_removed_vertices(optimizer, created, removed, with_fresh):
    tx, change = OPTIMIZERS[optimizer](), CHANGES["mixed"]
    plan, old, new = make(change, created=created, removed=removed)
    state, fresh = trained_state(optimizer), tx.init(new)
    carried, report = carry(plan, state, {"params": old}, {"params": new}, fresh=fresh if with_fresh else None)
    chex.assert_trees_all_equal_shapes_and_dtypes(carried, fresh)
    assert jax.tree.structure(carried) == jax.tree.structure(fresh)
    names = [name for name in by_name(fresh) if not any(f"['{layer}']" in name for layer in created)]
    pick = lambda tree: {name: leaf for name, leaf in by_name(tree).items() if name in names}  # noqa: E731
    for name, leaf in pick(carried).items():
        dims = parameter_of(name)
        want = by_name(state)[name]
        if dims:
            want = placed(want, by_name(fresh)[name], [change.get(d) for d in dims])
        np.testing.assert_array_equal(leaf, want, err_msg=name)
    for name in by_name(fresh).keys() - set(names):
        np.testing.assert_array_equal(by_name(carried)[name], by_name(fresh)[name], err_msg=name)
    assert report.restarted == ()
    assert set(report.carried) == set(names)


@pytest.mark.parametrize("optimizer", ["masked", "multi_transform", "muon"])
def test_removal_from_masked_states_needs_no_fresh_start(optimizer):
    tx, (plan, old, new) = OPTIMIZERS[optimizer](), make(CHANGES["mixed"], removed=("conv2", "norm"))
    fresh = tx.init(new)
    carried, _ = carry(plan, trained_state(optimizer), {"params": old}, {"params": new})
    chex.assert_trees_all_equal_shapes_and_dtypes(carried, fresh)
    assert jax.tree.structure(carried) == jax.tree.structure(fresh)


HOLE = optax.MaskedNode()


@pytest.mark.parametrize(
    ("block", "removed", "expected"),
    [
        (HOLE, ("up",), {"block": HOLE}),
        (HOLE, ("up", "down"), {}),
        ({"up": HOLE, "down": 0.5}, ("up",), {"block": {"down": 0.5}}),
        ({"up": HOLE, "down": HOLE}, ("up",), {"block": {"down": HOLE}}),
    ],
    ids=[
        "a part of its branch goes",
        "all of its branch goes",
        "it goes, and its sibling stays",
        "one hole of two goes",
    ],
)
def test_a_hole_stays_for_as_long_as_a_part_of_what_it_stands_for(block, removed, expected):
    before = {"block": {"up": np.ones(2), "down": np.ones(2)}, "head": np.ones(3)}
    left = {name: array for name, array in before["block"].items() if name not in removed}
    after = {**({"block": left} if left else {}), "head": before["head"]}
    gone = frozenset(("params", "block", name) for name in removed)
    kept = {("params", "block", name): (None,) for name in left}
    plan = Plan({}, {**kept, ("params", "head"): (None,)}, removed=gone)
    carried, _ = carry(plan, {"block": block, "head": 1.0}, {"params": before}, {"params": after})
    assert carried == {**expected, "head": 1.0}


@pytest.mark.parametrize("optimizer", ["masked", "multi_transform", "muon", "adafactor", "adafactor with momentum"])
def test_creation_in_masked_and_factored_states_asks_for_a_fresh_start(optimizer):
    tx, (plan, old, new) = OPTIMIZERS[optimizer](), make(CHANGES["mixed"], created=EXTRA, removed=("norm",))
    state, fresh = trained_state(optimizer), tx.init(new)
    go = partial(carry, plan, state, {"params": old}, {"params": new})
    with pytest.raises(CarryError, match=r"extra/.*fresh=tx\.init\(new_params\)"):
        go()
    carried, _ = go(fresh=fresh)
    chex.assert_trees_all_equal_shapes_and_dtypes(carried, fresh)
    assert jax.tree.structure(carried) == jax.tree.structure(fresh)


def test_created_leaves_go_into_every_kind_of_mapping():
    plan, old, new = make({}, created=EXTRA, removed=("norm",))
    carried, _ = carry(plan, {"ema": FrozenDict(old)}, {"params": old}, {"params": new}, new="params")
    assert jax.tree.structure(carried["ema"]) == jax.tree.structure(FrozenDict(new))
    chex.assert_trees_all_equal(carried["ema"]["extra"], FrozenDict(new["extra"]))


def test_a_tree_that_holds_some_variables_only_does_not_guess_about_new_ones():
    plan, old, new = make({}, created=EXTRA)
    grads = {layer: old[layer] for layer in ("conv1", "head")}
    with pytest.raises(CarryError, match=r"The tree lacks params/conv2/bias.*params/extra/bias is unknown"):
        carry(plan, grads, {"params": old}, {"params": new})


def test_first_of_a_collection_asks_for_a_fresh_start():
    plan, old, new = make({})
    plan = Plan(
        plan.axes, {**plan.leaves, ("batch_stats", "n", "mean"): ("a",)}, frozenset({("batch_stats", "n", "mean")})
    )
    after = {"params": new, "batch_stats": {"n": {"mean": jnp.zeros(4)}}}
    with pytest.raises(CarryError, match=r"batch_stats/n/mean is the first of its collection"):
        carry(plan, {"params": old}, {"params": old}, after)
    assert carry(plan, old, {"params": old}, after)[0].keys() == old.keys()
    assert carry(plan, {"params": old}, {"params": old}, after, fresh=after)[0].keys() == after.keys()


def test_a_replaced_variable_starts_again(caplog):
    plan, old, new = make({})
    plan = Plan(plan.axes, plan.leaves, created=frozenset({("params", "conv2", "bias")}))
    carried, report = carry(plan, {"mu": old}, {"params": old}, {"params": new})
    assert report.restarted == (("['mu']['conv2']['bias']", "its variable was replaced by a new one"),)
    assert not carried["mu"]["conv2"]["bias"].any()
    assert "['mu']['conv2']['bias'] starts again" in caplog.text


# --- what new entries are


def test_averages_of_parameters_take_new_entries_from_the_new_parameters():
    change = CHANGES["mixed"]
    plan, old, new = make(change)
    carried, _ = carry(plan, old, {"params": old}, {"params": new}, new="params")
    check_entries(old, carried, new, change)
    zeros, _ = carry(plan, old, {"params": old}, {"params": new})
    check_entries(old, zeros, jax.tree.map(jnp.zeros_like, new), change)


def test_schedule_free_keeps_z_on_the_new_parameters_without_being_told():
    """A z of zero would throw new neurons back to where the first step pulls them to zero."""
    tx, (plan, old, new) = optax.contrib.schedule_free_sgd(0.1), make({"a": [0, 1, 2, 3, NEW]})
    carried, _ = carry(plan, trained(tx, old), {"params": old}, {"params": new})
    evaluated = optax.contrib.schedule_free_eval_params(carried, new)
    np.testing.assert_allclose(evaluated["conv1"]["bias"][4], new["conv1"]["bias"][4], rtol=1e-6)
    with pytest.raises(CarryError, match=r"new entries of \.z\['conv1'\].*`after` holds only the shape"):
        carry(plan, trained(tx, old), {"params": old}, {"params": jax.eval_shape(lambda: new)})


def test_statistics_that_do_not_start_at_zero_follow_the_fresh_start():
    tx, change = optax.adagrad(0.1, initial_accumulator_value=0.25), CHANGES["grow"]
    plan, old, new = make(change)
    state, fresh = trained(tx, old), tx.init(new)
    check_entries(state, carry(plan, state, {"params": old}, {"params": new}, fresh=fresh)[0], fresh, change)


def test_lookahead_parameters():
    change, (plan, old, new) = CHANGES["grow"], make(CHANGES["grow"])
    pair = optax.LookaheadParams(fast=old, slow=jax.tree.map(lambda x: -x, old))
    carried, _ = carry(plan, pair, {"params": old}, {"params": new})
    check_entries(pair, carried, optax.LookaheadParams(new, new), change)


def test_masks_and_shapes():
    plan, old, new = make(CHANGES["mixed"], removed=("norm",))
    go = partial(carry, plan, before=jax.eval_shape(lambda: {"params": old}), after={"params": new})
    mask, _ = go(jax.tree.map(lambda x: np.asarray(x) > 0, old))
    chex.assert_trees_all_equal_shapes_and_dtypes(mask, jax.tree.map(lambda x: np.asarray(x) > 0, new))
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(mask["conv1"]))
    labels, _ = go(jax.tree.map(lambda _: "fast", old))
    assert labels == jax.tree.map(lambda _: "fast", new)
    abstract, _ = go(jax.eval_shape(lambda: old))
    assert abstract == jax.eval_shape(lambda: new)


# --- Adafactor

WIDE = {"in": 160, "a": 130, "b": 200}
WIDE_DIMS = {"d1": {"kernel": ("in", "a"), "bias": ("a",)}, "d2": {"kernel": (3, "a", "b")}, "d3": {"kernel": (5, "b")}}


@pytest.mark.parametrize("with_fresh", [False, True], ids=["", "fresh"])
@pytest.mark.parametrize(
    ("change", "restarts"),
    [
        ({"b": [*range(0, 200, 2), *[NEW] * 60]}, ()),
        ({"a": [*range(129, -1, -1)]}, ()),
        ({"a": [*range(127)]}, ("d1", "d2")),  # below 128: no longer factored
        ({"a": [*range(130), *[NEW] * 31]}, ("d1",)),  # 161 > 160: the largest dimension of d1 is another
        ({"a": [*range(130), *[NEW] * 70]}, ("d1",)),  # 200 and 200: optax's order of equal sizes
    ],
)
def test_adafactor(change, restarts, with_fresh, caplog):
    tx = optax.adafactor(1e-2)
    plan, old, new = make(change, WIDE, WIDE_DIMS)
    state, fresh = trained(tx, old), tx.init(new)
    carried, report = carry(plan, state, {"params": old}, {"params": new}, fresh=fresh if with_fresh else None)
    chex.assert_trees_all_equal_shapes_and_dtypes(carried, fresh)
    got, was, blank = by_name(carried), by_name(state), by_name(fresh)
    reported = {name for name, _ in report.restarted}
    assert {layer for layer in WIDE_DIMS if any(f"['{layer}']" in name for name in reported)} == set(restarts)
    for name in reported:
        np.testing.assert_array_equal(got[name], blank[name], err_msg=name)
        assert f"{name} starts again" in caplog.text
    if "d1" not in restarts:  # rows: the mean over the largest dimension, "in", and columns: over "a"
        sources = {"v_row": [change.get("a")], "v_col": [change.get("in")]}
        for field, source in sources.items():
            name = f"[0].{field}['d1']['kernel']"
            np.testing.assert_array_equal(got[name], placed(was[name], blank[name], source), err_msg=name)
    if "d2" not in restarts:
        sources = {"v_row": [None, change.get("a")], "v_col": [None, change.get("b")]}
        for field, source in sources.items():
            name = f"[0].{field}['d2']['kernel']"
            np.testing.assert_array_equal(got[name], placed(was[name], blank[name], source), err_msg=name)
    for name, dims in (("[0].v['d1']['bias']", ("a",)), ("[0].v['d3']['kernel']", (None, "b"))):
        np.testing.assert_array_equal(got[name], placed(was[name], blank[name], [change.get(d) for d in dims]))
    grads = random(jax.tree.map(lambda p: p.shape, new), 3)
    chex.assert_tree_all_finite(jax.jit(tx.update)(grads, carried, new)[0])


def test_adafactor_says_which_way_it_restarts(caplog):
    tx, (plan, old, new) = optax.adafactor(1e-2), make({"a": [*range(127)]}, WIDE, WIDE_DIMS)
    _, report = carry(plan, tx.init(old), {"params": old}, {"params": new})
    reason = "its parameter is no longer factored: the shape went from (160, 130) to (160, 127)"
    assert ("[0].v_row['d1']['kernel']", reason) in report.restarted
    assert caplog.records[0].name == "naivenas_jax"
    assert caplog.records[0].levelno == logging.WARNING


def test_adafactor_of_an_unknown_threshold_asks_for_a_fresh_start():
    tx, (plan, old, new) = optax.adafactor(1e-2, factored=False), make({"a": [*range(130), NEW]}, WIDE, WIDE_DIMS)
    go = partial(carry, plan, tx.init(old), {"params": old}, {"params": new})
    with pytest.raises(
        CarryError, match=r"\['d1'\]\['kernel'\] .* new shape is \(160, 131\).* above 130 and at most inf"
    ):
        go()
    chex.assert_trees_all_equal_shapes_and_dtypes(go(fresh=tx.init(new))[0], tx.init(new))


# --- matching


def test_the_longest_path_wins():
    axes = {"x": AxisPlan.of(3, [0, 1]), "y": AxisPlan.of(3, [2])}
    plan = Plan(axes, {("params", "a", "kernel"): ("x",), ("params", "b", "a", "kernel"): ("y",)})
    old = {"a": {"kernel": np.arange(3.0)}, "b": {"a": {"kernel": np.arange(3.0)}}}
    new = {"a": {"kernel": np.zeros(2)}, "b": {"a": {"kernel": np.zeros(1)}}}
    carried, _ = carry(plan, [old, {"nu": old}], {"params": old}, {"params": new})
    for tree in (carried[0], carried[1]["nu"]):
        assert tree["a"]["kernel"].tolist() == [0, 1]
        assert tree["b"]["a"]["kernel"].tolist() == [2]


def test_equally_good_matches_are_refused_unless_they_are_treated_alike():
    old = {"params": {"n": {"scale": np.arange(3.0)}}, "stats": {"n": {"scale": np.arange(3.0)}}}
    leaves = {("params", "n", "scale"): ("x",), ("stats", "n", "scale"): ("y",)}
    new = {"params": {"n": {"scale": np.zeros(2)}}, "stats": {"n": {"scale": np.zeros(2)}}}
    axes = {"x": AxisPlan.of(3, [0, 1]), "y": AxisPlan.of(3, [1, 2])}
    with pytest.raises(CarryError, match=r"\['n'\]\['scale'\] of shape \(3,\) may belong to params/n/scale, stats/n/"):
        carry(Plan(axes, leaves), old["params"], old, new)
    carried, _ = carry(Plan(axes, leaves), old["stats"], old, new, under=("stats",))
    assert carried["n"]["scale"].tolist() == [1, 2]
    alike = Plan({**axes, "y": axes["x"]}, leaves)
    assert carry(alike, old["params"], old, new)[0]["n"]["scale"].tolist() == [0, 1]


def test_an_optimizer_of_a_part_of_the_parameters():
    tx, (plan, old, new) = optax.adam(1e-2), make(CHANGES["mixed"])
    state = trained(tx, old["conv2"])
    with pytest.raises(CarryError, match=r"\[0\]\.mu\['bias'\] of shape \(4,\) belongs to no variable"):
        carry(plan, state, {"params": old}, {"params": new})
    carried, _ = carry(plan, state, {"params": old}, {"params": new}, under=("params", "conv2"))
    chex.assert_trees_all_equal_shapes_and_dtypes(carried, tx.init(new["conv2"]))
    with pytest.raises(CarryError, match=r"under=\('critic',\) is no path of the variables"):
        carry(plan, state, {"params": old}, {"params": new}, under=("critic",))


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"memory": jnp.ones(7)}, r"\['memory'\] of shape \(7,\) belongs to no variable. No variable's path ends it"),
        (
            {"mu": {"conv1": {"bias": jnp.ones(5)}}},
            r"of shape \(5,\).* named like params/conv1/bias, which has shape \(4,\)",
        ),
        (optax.contrib.galore(1e-2, rank=2), r"GaLoreState\.projector\) cannot be carried|belongs to no variable"),
        (optax.lbfgs(), r"ScaleByLBFGSState\.params\) cannot be carried.*Start this state again"),
        (optax.sm3(1e-2), r"ScaleBySM3State\.mu\) cannot be carried.*Start this state again"),
    ],
)
def test_what_cannot_be_matched_is_refused(tree, message):
    plan, old, new = make(CHANGES["mixed"])
    tree = tree.init(old) if hasattr(tree, "init") else tree
    with pytest.raises(CarryError, match=message):
        carry(plan, tree, {"params": old}, {"params": new})


def test_arguments_that_do_not_belong_together_are_refused():
    plan, old, new = make(CHANGES["mixed"])
    with pytest.raises(CarryError, match=r"`before` is not what the plan was made for: params/.* has shape"):
        carry(plan, old, {"params": new}, {"params": new})
    with pytest.raises(
        CarryError, match=r"`after` is not what the plan leads to: params/.* should be \(.*\), but is \("
    ):
        carry(plan, old, {"params": old}, {"params": old})
    with pytest.raises(CarryError, match=r"`fresh` has shape .* where the plan leads to"):
        carry(plan, old, {"params": old}, {"params": new}, fresh=old)
    with pytest.raises(CarryError, match=r"new='ones' is neither"):
        carry(plan, old, {"params": old}, {"params": new}, new="ones")
    plan, old, new = make({}, removed=("norm",))
    with pytest.raises(CarryError, match=r"`fresh` has \['norm'\]\['bias'\], which the plan removed"):
        carry(plan, old, {"params": old}, {"params": new}, fresh=old)


def test_carrying_inside_jit_is_refused():
    plan, old, new = make(CHANGES["mixed"])
    with pytest.raises(PlanError, match="mutations change shapes and run outside jit"):
        jax.jit(lambda tree: carry(plan, tree, {"params": old}, {"params": new})[0])(old)


def test_the_tree_given_is_untouched():
    plan, old, new = make(CHANGES["mixed"])
    tree = jax.tree.map(np.array, old)
    carry(plan, tree, {"params": old}, {"params": new})
    chex.assert_trees_all_equal(tree, jax.tree.map(np.asarray, old))


def test_what_does_not_change_is_the_same_object():
    plan, old, new = make({"b": [0, 1, 2, 3, NEW]})
    carried, _ = carry(plan, old, {"params": old}, {"params": new})
    assert carried["conv1"]["kernel"] is old["conv1"]["kernel"]
