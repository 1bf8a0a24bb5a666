"""Models that draw random numbers in evaluation are imported with keys, and draw from those of each call."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import naivenas_jax as nas

X = jax.random.normal(jax.random.key(0), (4, 5))
KEYS = {"noise": jax.random.key(1)}
OTHER = {"noise": jax.random.key(2)}


class Variational(nn.Module):
    """The latent is drawn; the decoder is not."""

    @nn.compact
    def __call__(self, x):
        mean, log = jnp.split(nn.Dense(6, name="latent")(nn.relu(nn.Dense(8, name="encoder")(x))), 2, -1)
        z = mean + jnp.exp(log) * jax.random.normal(self.make_rng("noise"), mean.shape)
        return nn.Dense(5, name="out")(nn.relu(nn.Dense(7, name="decoder")(z)))


class AlwaysDropout(nn.Module):
    """Monte-Carlo dropout."""

    @nn.compact
    def __call__(self, x):
        h = nn.Dropout(0.5, deterministic=False, rng_collection="noise")(nn.relu(nn.Dense(8, name="encoder")(x)))
        return nn.Dense(5, name="out")(nn.relu(nn.Dense(7, name="decoder")(h)))


def of_linen(module):
    variables = module.init({"params": jax.random.key(3), **KEYS}, X)
    return nas.from_linen(module, variables, X, rngs=KEYS)


@pytest.mark.parametrize("module", [Variational(), AlwaysDropout()])
def test_the_graph_draws_what_the_module_draws(module):
    graph, variables = of_linen(module)
    for rngs in (KEYS, OTHER):
        wanted = module.apply(variables, X, rngs=rngs)
        np.testing.assert_allclose(graph.apply(variables, X, rngs=rngs), wanted, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(jax.jit(graph.apply)(variables, X, rngs=rngs), wanted, rtol=1e-5, atol=1e-6)
    more = jnp.concatenate([X, X])  # another batch size is another trace
    np.testing.assert_allclose(
        graph.apply(variables, more, rngs=KEYS), module.apply(variables, more, rngs=KEYS), atol=1e-5
    )


@pytest.mark.parametrize("module", [Variational(), AlwaysDropout()])
def test_widths_beside_the_draws_change_as_in_any_model(module):
    graph, variables = of_linen(module)
    cut = nas.delta_nout(graph, variables, {"decoder": -2})
    kept, params = cut.indices("decoder"), variables["params"]
    masked = jax.tree.map(lambda a: a, variables)
    gone = np.setdiff1d(np.arange(7), kept)
    masked["params"]["out"]["kernel"] = params["out"]["kernel"].at[gone].set(0)
    wanted = module.apply(masked, X, rngs=OTHER)
    np.testing.assert_allclose(cut.graph.apply(cut.variables, X, rngs=OTHER), wanted, rtol=1e-5, atol=1e-5)
    cut.check(X, rngs=OTHER)
    grown = nas.delta_nout(graph, variables, {"decoder": 3})
    wanted = module.apply(variables, X, rngs=OTHER)
    np.testing.assert_allclose(grown.graph.apply(grown.variables, X, rngs=OTHER), wanted, rtol=1e-5, atol=1e-5)


def test_edits_inside_keep_the_streams():
    graph, variables = of_linen(Variational())
    more = nas.insert_vertex(graph, variables, "decoder", lambda v: nas.layer("more", nn.Dense(v.nout), v))
    wanted = Variational().apply(variables, X, rngs=OTHER)
    np.testing.assert_allclose(more.graph.apply(more.variables, X, rngs=OTHER), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("module", [Variational(), AlwaysDropout()])
def test_the_module_comes_back(module):
    graph, variables = of_linen(module)
    cut = nas.delta_nout(graph, variables, {"decoder": -2})
    small = nas.rebuild(module, cut)
    wanted = cut.graph.apply(cut.variables, X, rngs=OTHER)
    np.testing.assert_allclose(small.apply(cut.variables, X, rngs=OTHER), wanted, rtol=1e-5, atol=1e-5)


def test_sizes_are_found_within_budgets():
    graph, variables = of_linen(Variational())
    small = nas.resize(graph, variables, max_macs=0.7, inputs=X)
    assert small.graph.apply(small.variables, X, rngs=KEYS).shape == (4, 5)
    assert nas.costs(small.graph, small.variables, X).macs <= 0.7 * nas.costs(graph, variables, X).macs


class NnxDrawing(nnx.Module):
    def __init__(self):
        self.a, self.b = nnx.Linear(5, 6, rngs=nnx.Rngs(0)), nnx.Linear(6, 3, rngs=nnx.Rngs(1))

    def __call__(self, x, rngs):
        return self.b(nnx.relu(self.a(x + jax.random.normal(rngs.noise(), x.shape))))


@pytest.mark.parametrize("rngs", [KEYS, nnx.Rngs(noise=1)])
def test_nnx_models_take_keys_too(rngs):
    model = NnxDrawing()
    graph, variables = nas.from_nnx(model, X, rngs=rngs)
    wanted = model(X, nnx.Rngs(noise=jax.random.key(2)))
    np.testing.assert_allclose(graph.apply(variables, X, rngs=OTHER), wanted, rtol=1e-5, atol=1e-6)
    cut = nas.delta_nout(graph, variables, {"a": -2})
    cut.check(X, rngs=OTHER)
    small = nas.rebuild(model, cut)
    wanted = cut.graph.apply(cut.variables, X, rngs=OTHER)
    np.testing.assert_allclose(small(X, nnx.Rngs(noise=jax.random.key(2))), wanted, rtol=1e-5, atol=1e-5)


def test_raw_keys_are_keys():
    raw = {"noise": jax.random.PRNGKey(1)}
    module = Variational()
    variables = module.init({"params": jax.random.PRNGKey(3), **raw}, X)
    graph, variables = nas.from_linen(module, variables, X, rngs=raw)
    np.testing.assert_allclose(graph.apply(variables, X, rngs=raw), module.apply(variables, X, rngs=raw), atol=1e-5)


@pytest.mark.parametrize("rngs", [{"noise": 1}, {"noise": jnp.ones(2)}, 3, {0: jax.random.key(0)}])
def test_what_is_no_key_is_refused(rngs):
    with pytest.raises(nas.GraphError, match="rngs= takes keys by stream"):
        nas.from_linen(Variational(), Variational().init({"params": jax.random.key(3), **KEYS}, X), X, rngs=rngs)
