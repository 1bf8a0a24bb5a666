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


def scaled(params, x):
    """A layer scale; one of its entries is 0, and one next to it."""
    return params["scale"] * dense(params, "down", x)


def halved_twice(params, x):
    return 0.5 * (dense(params, "down", x) * 0.5)


BRANCHES = {"layer scale": scaled, "numbers": halved_twice}


class Scaled(nn.Module):
    """A branch is multiplied with something before it is added to what another layer made."""

    branch: str

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(6, name="first")(nn.relu(nn.Dense(12, name="before")(x)))
        y = nn.Dense(6, name="down")(nn.relu(nn.Dense(12, name="up")(x)))
        if self.branch == "numbers":
            return nn.Dense(6, name="last")(x + 0.5 * (y * 0.5))
        scale = self.param("scale", lambda key: jnp.array([1.0, -0.5, 0.3, 2.0, 0.0, 1e-3]))
        return nn.Dense(6, name="last")(x + scale * y)


@pytest.mark.parametrize("branch", BRANCHES)
def test_a_branch_that_is_scaled_makes_up_for_the_rest_of_the_sum(branch):
    graph, variables = nas.from_linen(Scaled(branch), Scaled(branch).init(jax.random.key(1), DATA), DATA)
    found = nas.compensate(nas.delta_nout(graph, variables, {"before": -6, "up": -6}), BATCHES, ridge=1e-12)
    both = {}
    for name, own in (("now", found.variables["params"]), ("then", variables["params"])):
        x = dense(own, "first", np.maximum(dense(own, "before", np.asarray(DATA, np.float64)), 0))
        read = np.maximum(dense(own, "up", x), 0)
        both[name] = read, x, x + BRANCHES[branch](own, read)
    (read, skip, total), (then, _, wanted) = both["now"], both["then"]
    rows = np.hstack([read, np.ones((len(read), 1))])
    loud = [0, 1, 2, 3] if branch == "layer scale" else slice(None)
    reached = skip + rows @ np.linalg.lstsq(rows, wanted - skip, rcond=None)[0]
    np.testing.assert_allclose(total[:, loud], reached[:, loud], atol=3e-3)
    if branch == "layer scale":  # what hardly counts in the sum is fitted to what it made
        alone = np.linalg.lstsq(rows, dense(variables["params"], "down", then), rcond=None)[0]
        np.testing.assert_allclose(found.variables["params"]["down"]["kernel"][:, 4:], alone[:-1, 4:], atol=3e-3)


class Parallel(nn.Module):
    """Two branches of one input are added up first, and to the input then."""

    summed_first: bool
    read_twice: bool = False

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(6, name="first")(nn.relu(nn.Dense(12, name="before")(x)))
        one, two = (nn.Dense(6, name=f"down{i}")(nn.relu(nn.Dense(12, name=f"up{i}")(x))) for i in range(2))
        between = one + two if self.summed_first else x + one
        total = x + between if self.summed_first else between + two
        return nn.Dense(6, name="last")(total), between * between if self.read_twice else total


@pytest.mark.parametrize(("summed_first", "read_twice"), [(True, False), (False, False), (True, True)])
def test_the_last_of_parallel_branches_makes_up_for_all_of_the_sum(summed_first, read_twice):
    """Unless what both make together is read by itself as well: then it is that."""
    model = Parallel(summed_first, read_twice)
    graph, variables = nas.from_linen(model, model.init(jax.random.key(1), DATA), DATA)
    found = nas.compensate(nas.delta_nout(graph, variables, {"before": -6, "up0": -6, "up1": -6}), BATCHES, ridge=1e-12)
    both = {}
    for name, own in (("now", found.variables["params"]), ("then", variables["params"])):
        x = dense(own, "first", np.maximum(dense(own, "before", np.asarray(DATA, np.float64)), 0))
        reads = [np.maximum(dense(own, f"up{i}", x), 0) for i in range(2)]
        both[name] = reads[1], dense(own, "down0", reads[0]) + (0 if read_twice else x), dense(own, "down1", reads[1])
    (read, others, made), (_, others_then, then) = both["now"], both["then"]
    rows = np.hstack([read, np.ones((len(read), 1))])
    reached = others + rows @ np.linalg.lstsq(rows, others_then + then - others, rcond=None)[0]
    np.testing.assert_allclose(others + made, reached, atol=3e-3)
