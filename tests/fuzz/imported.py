"""The models of `model_grammar` in linen and nnx, imported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from model_grammar import SILENT, Design
from subject import Subject, filled, rng_of

import naivenas_jax as nas

NORMS = {"layer": "LayerNorm", "batch": "BatchNorm", "rms": "RMSNorm", "instance": "InstanceNorm", "group": "GroupNorm"}
NORMAL = nn.initializers.normal(0.5)


class LinenBuild:
    """Layers of linen, made while a compact module runs."""

    def __init__(self, module: nn.Module, train: bool):
        self.module, self.train, self.made = module, train, dict[str, Any]()

    def layer(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self.made:
            self.made[name] = make()
        return self.made[name]

    def dense(self, name: str, x: Any, size: int, bias: bool = True) -> Any:
        return self.layer(name, lambda: nn.Dense(size, use_bias=bias, name=name))(x)

    def conv(self, name: str, x: Any, size: int, window: Sequence[int], groups: int = 1, **how: Any) -> Any:
        return nn.Conv(size, tuple(window), feature_group_count=groups, name=name, **how)(x)

    def transposed(self, name: str, x: Any, size: int, window: Sequence[int]) -> Any:
        return nn.ConvTranspose(size, tuple(window), name=name)(x)

    def norm(self, name: str, kind: str, x: Any) -> Any:
        options: dict[str, Any] = {"batch": {"use_running_average": not self.train}, "group": {"num_groups": 2}}.get(
            kind, {}
        )
        return getattr(nn, NORMS[kind])(**options, name=name)(x)

    def attention(self, name: str, x: Any, heads: int, inner: int) -> Any:
        return nn.MultiHeadDotProductAttention(heads, qkv_features=inner, name=name)(x)

    def recurrent(self, name: str, kind: str, x: Any, size: int) -> Any:
        return nn.RNN(getattr(nn, kind)(size, name=f"{name}_cell"), name=name)(x)

    def embed(self, name: str, words: int, size: int) -> Any:
        layer = nn.Embed(words, size, name=name)
        return layer, layer.attend

    def param(self, name: str, shape: Sequence[int]) -> Any:
        return self.module.param(name, NORMAL, tuple(shape))

    def dropout(self, name: str, x: Any) -> Any:
        return nn.Dropout(0.3, deterministic=not self.train, name=name)(x)

    def key(self) -> Any:
        return self.module.make_rng("noise")


class LinenModel(nn.Module):
    """A model by its design."""

    design: Design

    @nn.compact
    def __call__(self, x: Any, context: Any = None, train: bool = False) -> Any:
        return self.design.compute(LinenBuild(self, train), *arrays_of(x, context))


class NnxBuild:
    """Layers of nnx, made the first time that a model runs, and kept as attributes of it."""

    def __init__(self, model: nnx.Module):
        self.model = model

    def layer(self, name: str, make: Callable[[], Any]) -> Any:
        if not hasattr(self.model, name):
            setattr(self.model, name, make())
        return getattr(self.model, name)

    def dense(self, name: str, x: Any, size: int, bias: bool = True) -> Any:
        rngs = nnx.Rngs(0)
        return self.layer(name, lambda: nnx.Linear(x.shape[-1], size, use_bias=bias, rngs=rngs))(x)

    def conv(self, name: str, x: Any, size: int, window: Sequence[int], groups: int = 1, **how: Any) -> Any:
        make = lambda: nnx.Conv(  # noqa: E731
            x.shape[-1], size, tuple(window), feature_group_count=groups, rngs=nnx.Rngs(0), **how
        )
        return self.layer(name, make)(x)

    def transposed(self, name: str, x: Any, size: int, window: Sequence[int]) -> Any:
        return self.layer(name, lambda: nnx.ConvTranspose(x.shape[-1], size, tuple(window), rngs=nnx.Rngs(0)))(x)

    def norm(self, name: str, kind: str, x: Any) -> Any:
        options: dict[str, Any] = {"batch": {"use_running_average": True}, "group": {"num_groups": 2}}.get(kind, {})
        return self.layer(name, lambda: getattr(nnx, NORMS[kind])(x.shape[-1], **options, rngs=nnx.Rngs(0)))(x)

    def attention(self, name: str, x: Any, heads: int, inner: int) -> Any:
        make = lambda: nnx.MultiHeadAttention(  # noqa: E731
            heads, x.shape[-1], qkv_features=inner, decode=False, rngs=nnx.Rngs(0)
        )
        return self.layer(name, make)(x)

    def recurrent(self, name: str, kind: str, x: Any, size: int) -> Any:
        make = lambda: nnx.RNN(getattr(nnx, kind)(x.shape[-1], size, rngs=nnx.Rngs(0)))  # noqa: E731
        return self.layer(name, make)(x)

    def embed(self, name: str, words: int, size: int) -> Any:
        layer = self.layer(name, lambda: nnx.Embed(words, size, rngs=nnx.Rngs(0)))
        return layer, layer.attend

    def param(self, name: str, shape: Sequence[int]) -> Any:
        return self.layer(name, lambda: nnx.Param(jnp.zeros(tuple(shape))))[...]

    def dropout(self, name: str, x: Any) -> Any:
        return self.layer(name, lambda: nnx.Dropout(0.3, deterministic=True, rngs=nnx.Rngs(0)))(x)

    def key(self) -> Any:
        return self.layer("rngs", lambda: nnx.Rngs(noise=0)).noise()


class NnxModel(nnx.Module):
    """A model by its design, which runs once to make its layers."""

    def __init__(self, design: Design, *inputs: Any):
        self.design = design
        self(*inputs)

    def __call__(self, x: Any, context: Any = None) -> Any:
        return self.design.compute(NnxBuild(self), *arrays_of(x, context))


def arrays_of(x: Any, context: Any) -> tuple[Any, Any]:
    """The two inputs of a model, which may come in one dict."""
    return (x["seen"], x["beside"]["context"]) if isinstance(x, dict) else (x, context)


def design_of(seed: int, blocks: Sequence[int]) -> Design:
    rng = rng_of(seed, "design")
    words = 7 if rng.random() < 0.2 else 0
    images = not words and rng.random() < 0.3
    return Design(seed, tuple(blocks), images, words, rng.random() < 0.2, rng.random() < 0.25)


def described(design: Design) -> str:
    ends = "words " * bool(design.words) + "images " * design.images + "pair " * design.pair + "named" * design.named
    return f"{ends}: " + ", ".join(f"{number} {design.block(number)[0]}" for number in design.blocks)


def inputs_of(design: Design) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(design.seed)
    context = generator.normal(size=(2, 3)).astype(np.float32)
    if design.words:
        return generator.integers(design.words, size=(2, 3)).astype(np.int32), context
    shape = (2, 4, 3, 3) if design.images else (2, 4, 3)
    return generator.normal(size=shape).astype(np.float32), context


def joined(design: Design, inputs: Sequence[Any]) -> tuple[tuple[Any, ...], Any]:
    """The arrays of the inputs in the order of input vertices, and what makes the arguments of a model from them."""
    if not design.named:
        return tuple(inputs), tuple
    leaves, tree = jax.tree.flatten({"seen": inputs[0], "beside": {"context": inputs[1]}})
    return tuple(leaves), lambda arrays: (tree.unflatten(arrays),)


def linen(seed: int, blocks: Sequence[int]) -> Subject:
    """A random linen model, imported."""
    design = design_of(seed, blocks)
    (inputs, join), module = joined(design, inputs_of(design)), LinenModel(design)
    keys = {"noise": jax.random.key(5)}
    shapes = jax.eval_shape(lambda *xs: module.init({"params": jax.random.key(0), **keys}, *xs), *join(inputs))
    variables = filled(shapes, seed)
    graph, variables = nas.from_linen(module, variables, *join(inputs), rngs=keys)
    own = lambda v, *xs: module.apply(v, *xs, rngs=keys)  # noqa: E731
    return Subject(graph, variables, inputs, "linen", module, own, silent_of(variables), keys, described(design), join)


def of_nnx(seed: int, blocks: Sequence[int]) -> Subject:
    """A random nnx model, imported."""
    design = design_of(seed, blocks)
    inputs, join = joined(design, inputs_of(design))
    model = nnx.eval_shape(lambda: NnxModel(design, *join(inputs)))
    definition, state = nnx.split(model)
    shapes = jax.tree.map(lambda leaf: leaf, state)
    model = nnx.merge(definition, _filled_state(shapes, seed))
    keys = {"noise": jax.random.key(5)} if hasattr(model, "rngs") else {}
    graph, variables = nas.from_nnx(model, *join(inputs), **({"rngs": keys} if keys else {}))

    def own(variables: Any, *xs: Any) -> Any:
        copy = nnx.clone(model)
        if keys:
            nnx.reseed(copy, **keys)
        return copy(*xs)

    return Subject(graph, variables, inputs, "nnx", model, own, silent_of(variables), keys, described(design), join)


def _filled_state(shapes: Any, seed: int) -> Any:
    def value(path: Any, leaf: Any) -> Any:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.key(0)
        names = [str(getattr(k, "key", getattr(k, "name", k))) for k in path if not hasattr(k, "name")]
        shaped = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        return jnp.asarray(filled({(names or ["w"])[-1]: shaped}, len("/".join(names)) + seed)[(names or ["w"])[-1]])

    return jax.tree_util.tree_map_with_path(value, shapes)


def silent_of(variables: Any) -> dict[str, float]:
    """The silent numbers of the parameters that there are, by name."""
    found = {}
    for path, _ in jax.tree_util.tree_leaves_with_path(variables):
        name = str(path[-1].key)
        for kind, number in SILENT.items():
            if name.endswith(kind):
                found[name] = number
    return found
