"""How sure a report says a choice is, against numbers by hand, finite differences and resampled examples."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import naivenas_jax as nas


def network(width=4):
    x = nas.input_vertex("x", 3)
    hidden = nas.layer("hidden", nn.Dense(width), x)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.invariant_vertex("tanh", jnp.tanh, hidden)))
    return graph, graph.init(jax.random.key(0), jnp.ones((1, 3)))


def of(found, handle):
    return next(one for one in found.handles if one.handle == handle)


def test_by_hand():
    graph, variables = network()
    scores, errors = {"hidden": [4.0, 1.0, 2.0, 3.0]}, {"hidden": [0.1, 0.1, 1.0, 0.2]}
    cut = nas.delta_nout(graph, variables, {"hidden": -2}, utility=scores)  # 4 and 3 stay
    found = nas.report(cut, measured=(scores, errors))
    for handle in ("hidden", "tanh"):
        one = of(found, handle)
        assert one.unsure == 1  # 2 + 1 reaches 3; 1 + 0.1 does not
        share, error = one.score_kept
        assert share == pytest.approx(0.7)
        assert error == pytest.approx((0.3 * (0.1 + 0.2) + 0.7 * (0.1 + 1.0)) / 10)
    assert of(found, "out").unsure == 0
    assert "70.0% ± 8.6%" in str(found)
    assert "1 of 2" in str(found)
    assert json.loads(json.dumps(found.to_dict()))["handles"]["hidden"]["unsure"] == 1
    assert of(nas.report(cut), "hidden").unsure is None


def test_scores_need_not_be_those_that_decided():
    graph, variables = network()
    cut = nas.delta_nout(graph, variables, {"hidden": -2}, utility={"hidden": [0.0, 1.0, 1.0, 0.0]})
    found = nas.report(cut, measured=({"hidden": [4.0, 1.0, 2.0, 3.0]}, {"hidden": 0.0}))
    assert of(found, "hidden").unsure == 2  # both are better than one that stays
    assert of(found, "hidden").score_kept == pytest.approx((0.3, 0.0))


def test_errors_of_tied_neurons_add_up():
    x = nas.input_vertex("x", 3)
    both = (nas.layer("a", nn.Dense(3), x) + nas.layer("b", nn.Dense(3), x)).named("both")
    graph = nas.Graph(x, nas.layer("out", nn.Dense(1), both))
    variables = graph.init(jax.random.key(0), jnp.ones((1, 3)))
    scores, errors = {"a": [3.0, 1.0, 2.0], "b": [3.0, 1.0, 2.0]}, {"a": [0.0, 0.7, 0.0], "b": [0.0, 0.4, 0.9]}
    cut = nas.delta_nout(graph, variables, {"both": -2}, utility=scores)
    one = of(nas.report(cut, measured=(scores, errors)), "both")
    assert one.score_kept == pytest.approx((0.5, 0.5 * (0.7 + 0.4 + 0.9) / 12))
    assert one.unsure == 0  # 2 + 1.1 < 6 and 4 + 0.9 < 6


def test_the_error_of_the_share_is_reached_where_errors_go_together():
    rng = np.random.default_rng(0)
    graph, variables = network(9)
    scores, errors = rng.uniform(1, 2, 9), rng.uniform(0, 1, 9)
    cut = nas.delta_nout(graph, variables, {"hidden": -4}, utility={"hidden": scores})
    kept = np.isin(np.arange(9), cut.plan.axis("hidden").kept)
    step, sign = 1e-6, np.where(kept, 1.0, -1.0)

    def share(scores):
        return scores[kept].sum() / scores.sum()

    slope = (share(scores + step * sign * errors) - share(scores - step * sign * errors)) / (2 * step)
    found = nas.report(cut, measured=({"hidden": scores}, {"hidden": errors}))
    assert of(found, "hidden").score_kept == pytest.approx((share(scores), slope), rel=1e-6)


def test_the_error_of_the_share_is_no_less_than_by_resampling():
    graph, variables = network(12)
    inputs, targets = jax.random.normal(jax.random.key(1), (80, 3)), jax.random.normal(jax.random.key(2), (80, 2))

    def loss(apply, variables, batch):
        return jnp.mean((apply(variables, batch[0]) - batch[1]) ** 2)

    measured = nas.fisher(graph, variables, loss, [(inputs, targets)], errors=True)
    cut = nas.delta_nout(graph, variables, {"hidden": -6}, utility=measured[0])
    _, error = of(nas.report(cut, measured=measured), "hidden").score_kept
    own = variables["params"]

    def gated(gates, x, y):
        made = gates * jnp.tanh(x @ own["hidden"]["kernel"] + own["hidden"]["bias"])
        return jnp.mean((made @ own["out"]["kernel"] + own["out"]["bias"] - y) ** 2)

    rows = np.asarray(jax.vmap(jax.grad(gated), (None, 0, 0))(jnp.ones(12), inputs, targets)) ** 2 / 2
    np.testing.assert_allclose(measured[0]["hidden"], rows.mean(0), rtol=1e-4)
    drawn = rows[np.random.default_rng(0).integers(0, 80, (2000, 80))].mean(1)
    shares = drawn[:, cut.plan.axis("hidden").kept].sum(1) / drawn.sum(1)
    assert shares.std() <= error <= 6 * shares.std()


def test_what_is_no_pair_of_scores_and_errors_is_refused():
    graph, variables = network()
    cut, scores = nas.delta_nout(graph, variables, {"hidden": -1}), {"hidden": [1.0, 2.0, 3.0, 4.0]}
    with pytest.raises(nas.UtilityError, match=r"pair of scores and standard errors, .*; found dict"):
        nas.report(cut, measured=scores)
    with pytest.raises(nas.UtilityError, match="the standard error of 'hidden' is negative: -1"):
        nas.report(cut, measured=(scores, {"hidden": [0.0, 0.0, -1.0, 0.0]}))
    with pytest.raises(nas.UtilityError, match=r"'hidden' has shape \(3,\)"):
        nas.report(cut, measured=(scores, {"hidden": [0.0, 0.0, 0.0]}))
