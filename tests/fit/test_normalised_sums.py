"""Weights behind which a sum or a concatenation is normalised, against least squares of numpy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import naivenas_jax as nas

DATA = jax.random.normal(jax.random.key(0), (300, 6))
BATCHES = [DATA[:150], DATA[150:]]  # of one shape, which is compiled once


class Post(nn.Module):
    """The norm is behind the sum, as in the first transformers."""

    @nn.compact
    def __call__(self, x):
        for i in range(2):
            x = nn.LayerNorm(name=f"norm{i}")(x + nn.Dense(6, name=f"down{i}")(nn.relu(nn.Dense(12, name=f"up{i}")(x))))
        return x


class Pre(nn.Module):
    """The norm is on the branch, and one more behind all sums."""

    @nn.compact
    def __call__(self, x):
        for i in range(2):
            y = nn.LayerNorm(name=f"norm{i}")(x)
            x = x + nn.Dense(6, name=f"down{i}")(nn.relu(nn.Dense(12, name=f"up{i}")(y)))
        return nn.LayerNorm(name="last")(x)


class Joined(nn.Module):
    """Branches are joined, and the whole is normalised."""

    norm: nn.Module

    @nn.compact
    def __call__(self, x):
        branches = [nn.Dense(6, name=f"down{i}")(nn.relu(nn.Dense(12, name=f"up{i}")(x))) for i in range(2)]
        return self.norm(jnp.concatenate(branches, -1))


def dense(params, name, x):
    return x @ np.asarray(params[name]["kernel"], np.float64) + np.asarray(params[name]["bias"], np.float64)


def layer_norm(x):
    """With the scale and bias that it has before training."""
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def post(params, x, i):
    """What the last weight of block i reads, and what is added to what it makes."""
    if i:
        read, skip = post(params, x, i - 1)
        x = layer_norm(skip + dense(params, f"down{i - 1}", read))
    return np.maximum(dense(params, f"up{i}", x), 0), x


def pre(params, x, i):
    if i:
        read, skip = pre(params, x, i - 1)
        x = skip + dense(params, f"down{i - 1}", read)
    return np.maximum(dense(params, f"up{i}", layer_norm(x)), 0), x


def joined(params, x, i):
    return np.maximum(dense(params, f"up{i}", x), 0), 0.0


@pytest.mark.parametrize(
    ("module", "read"),
    [
        (Post(), post),
        (Pre(), pre),
        (Joined(nn.LayerNorm()), joined),
        (Joined(nn.GroupNorm(3)), joined),
        (Joined(nn.RMSNorm()), joined),
    ],
    ids=["behind a sum", "on a branch", "LayerNorm", "GroupNorm", "RMSNorm"],
)
def test_what_is_normalised_is_made_up_for(module, read):
    graph, variables = nas.from_linen(module, module.init(jax.random.key(1), DATA), DATA)
    pruned = nas.delta_nout(graph, variables, {"up0": -6, "up1": -6})
    found = nas.compensate(pruned, BATCHES, ridge=1e-12)
    x = np.asarray(DATA, np.float64)
    for i in range(2):
        (rows, skip), (then, skip_then) = (read(own["params"], x, i) for own in (found.variables, variables))
        wanted = skip_then + dense(variables["params"], f"down{i}", then) - skip
        best = np.linalg.lstsq(np.hstack([rows, np.ones((len(rows), 1))]), wanted, rcond=None)[0]
        own = found.variables["params"][f"down{i}"]
        np.testing.assert_allclose(own["kernel"], best[:-1], atol=3e-3)
        np.testing.assert_allclose(own["bias"], best[-1], atol=3e-3)
