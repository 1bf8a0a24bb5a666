"""Every import is the untouched model: compared with it by hand, whatever the model looks at while it computes."""

from collections.abc import Callable

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


class Counted(nn.Module):
    """Says when it is traced."""

    say: Callable

    @nn.compact
    def __call__(self, x):
        self.say()
        return nn.Dense(4)(jnp.tanh(nn.Dense(6)(x)))


class CountedOfNnx(nnx.Module):
    def __init__(self, say):
        self.say = say
        self.layer = nnx.Linear(6, 4, rngs=nnx.Rngs(0))

    def __call__(self, x):
        self.say()
        return self.layer(x)


def test_a_module_is_traced_twice_with_names_and_without():
    traced = []

    def say():
        traced.append(None)

    shapes = jax.eval_shape(Counted(say).init, jax.random.key(0), X)
    traced.clear()
    nas.from_linen(Counted(say), shapes, X)
    assert len(traced) == 2
    nas.from_nnx(CountedOfNnx(say), X)
    assert len(traced) == 4


def test_no_initialiser_is_run_to_see_that_parameters_fit():
    """The shape that it is asked for says it."""
    ran = []

    def init(key, shape, dtype=jnp.float32):
        ran.append(shape)
        return jnp.zeros(shape, dtype)

    model = nn.Sequential([nn.Dense(8, kernel_init=init), nn.Dense(2, kernel_init=init)])
    variables = model.init(jax.random.key(0), X)
    ran.clear()
    nas.from_linen(model, variables, X)
    assert not ran
    variables["params"]["layers_1"]["kernel"] = jnp.zeros((8, 3))
    with pytest.raises(nas.VariablesError, match="do not fit the module"):
        nas.from_linen(model, variables, X)
