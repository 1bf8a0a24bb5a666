"""Every import is the untouched model: compared with it by hand, whatever the model looks at while it computes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import naivenas_jax as nas


class Base(nnx.Module):
    """Calls its hook only if a derived class overrides it."""

    def __init__(self, rngs):
        self.lin = nnx.Linear(6, 6, rngs=rngs)

    def hook(self, x):
        return 2 * x

    def __call__(self, x):
        if type(self).hook is not Base.hook:
            x = self.hook(x)
        return self.lin(x)


class Inherits(Base):
    pass


class Overrides(Base):
    def hook(self, x):
        return x - 1


class AsksItsClass(Base):
    def __call__(self, x):
        scale = SCALES[type(self)] if "hook" not in vars(type(self)) else 0.0
        return super().__call__(x * scale) + len(type(self).__name__) + len(Base.__subclasses__())


class TableOfFunctions(Base):
    def __call__(self, x):
        return HOOKS.get(type(self).hook, jnp.zeros_like)(self.lin(x))


class Compiled(Base):
    @nnx.jit
    def __call__(self, x):
        return self.lin(x) if type(self) is Compiled else x


SCALES = {AsksItsClass: 3.0}
HOOKS = {Base.hook: jnp.cos}


class Holder(nnx.Module):
    def __init__(self, kind):
        self.a, self.b = kind(nnx.Rngs(0)), nnx.Linear(6, 2, rngs=nnx.Rngs(1))

    def __call__(self, x):
        return self.b(jnp.tanh(self.a(x)))


X = jax.random.normal(jax.random.key(0), (3, 6))


@pytest.mark.parametrize("kind", [Inherits, Overrides, AsksItsClass, TableOfFunctions, Compiled])
def test_a_model_that_looks_at_its_own_type_is_what_it_was(kind):
    model = Holder(kind)
    wanted, classes = model(X), list(Base.__subclasses__())
    graph, variables = nas.from_nnx(model, X)
    np.testing.assert_allclose(graph.apply(variables, X), wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(model(X), wanted)  # untouched
    assert Base.__subclasses__() == classes  # and so are its classes
    narrow = nas.delta_nout(graph, variables, {"a/lin": -2})
    narrow.check(X)
    small = nas.rebuild(model, narrow)
    np.testing.assert_allclose(small(X), narrow.graph.apply(narrow.variables, X), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [Inherits, Overrides, AsksItsClass, Compiled])
def test_the_modules_of_such_a_model_have_names(kind):
    graph, variables = nas.from_nnx(Holder(kind), X)
    more = nas.insert_vertex(graph, variables, "a", lambda v: nas.layer("more", nn.Dense(v.nout), v))
    np.testing.assert_allclose(more.graph.apply(more.variables, X), Holder(kind)(X), rtol=1e-5, atol=1e-6)


def test_a_model_that_stacks_its_modules_is_imported():
    class Stacked(nnx.Module):
        def __init__(self):
            self.layers = nnx.List([nnx.Linear(6, 6, rngs=nnx.Rngs(i)) for i in range(3)])

        def __call__(self, x):
            stack = jax.tree.map(lambda *arrays: jnp.stack(arrays), *self.layers)  # as pytrees they must be alike
            return jax.lax.scan(lambda h, layer: (jnp.tanh(layer(h)), None), x, stack)[0]

    model = Stacked()
    graph, variables = nas.from_nnx(model, X)
    np.testing.assert_allclose(graph.apply(variables, X), model(X), rtol=1e-5, atol=1e-6)


class Identity(nn.Module):
    def __call__(self, x):
        return x


class LooksAtIdentity(nn.Module):
    """A name makes another object of an array."""

    @nn.compact
    def __call__(self, x):
        same = Identity(name="same")(x) is x
        return nn.Dense(2, name="b")(nn.tanh(nn.Dense(6, name="a")(x if same else 2 * x)))


def test_a_model_that_looks_at_the_identity_of_arrays_is_what_it_was():
    variables = LooksAtIdentity().init(jax.random.key(0), X)
    graph, variables = nas.from_linen(LooksAtIdentity(), variables, X)
    np.testing.assert_allclose(graph.apply(variables, X), LooksAtIdentity().apply(variables, X), rtol=1e-5, atol=1e-6)
    nas.delta_nout(graph, variables, {"a": -2}).check(X)


def test_other_ways_to_call_a_model_are_proven_too():
    class Noisy(Inherits):
        def __init__(self, rngs):
            super().__init__(rngs)
            self.drop = nnx.Dropout(0.5)

        def __call__(self, x):
            y = super().__call__(x)
            return self.drop(y) if type(self).hook is Base.hook else y

    model = Holder(Noisy)
    graph, variables = nas.from_nnx(model, X)
    rngs = {"dropout": jax.random.key(5)}
    found = graph.apply(variables, X, train=True, rngs=rngs)
    assert float(jnp.abs(found - graph.apply(variables, X)).max()) > 1e-3


def counting():
    calls = []

    def f(variables, x):
        calls.append(1)
        return x @ variables["params"]["a"] * len(calls)

    return f


def random(variables, x):
    return x @ variables["params"]["a"] + np.random.default_rng().normal()


@pytest.mark.parametrize("fn", [counting(), random])
def test_a_model_whose_own_traces_differ_is_refused(fn):
    with pytest.raises(nas.GraphError, match="traced twice with the same arguments, it is two different computations"):
        nas.from_function(fn, {"params": {"a": jnp.ones((6, 2))}}, X)


def test_functions_written_inside_a_model_do_not_make_traces_differ():
    def f(variables, x):
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return jax.pure_callback(lambda t: t, shape, x) @ variables["params"]["a"]

    variables = {"params": {"a": jnp.ones((6, 2))}}
    graph, _ = nas.from_function(f, variables, X)
    np.testing.assert_allclose(graph.apply(variables, X), f(variables, X), rtol=1e-6)


def test_classes_are_as_they_were_after_a_model_that_fails():
    class Fails(Base):
        def __call__(self, x):
            raise TypeError("no")

    call = vars(Fails)["__call__"]
    with pytest.raises(nas.GraphError, match="TypeError: no"):
        nas.from_nnx(Holder(Fails), X)
    assert vars(Fails)["__call__"] is call
