"""Contractions over several axes: `DenseGeneral` and `LinearGeneral`, and those written as an equation, `Einsum`.

Neurons lie on the last axis of the input and of the output. All other axes are positions, whose sizes stay.
"""

from __future__ import annotations

import math

import flax.linen as nn
import jax
from flax import nnx
from jax.typing import DTypeLike

from naivenas_jax.errors import GraphError
from naivenas_jax.layers.describe import as_tuple, describes, filled_with, initialisers, present, shapes
from naivenas_jax.layers.flax_layers.linear import identity_kernel
from naivenas_jax.layers.rule import LayerRule
from naivenas_jax.sizes.ties import Initialiser
from naivenas_jax.typing import Array


@describes(nn.DenseGeneral, nnx.LinearGeneral)
def dense_general(layer: nn.DenseGeneral | nnx.LinearGeneral, nin: tuple[int, ...]) -> LayerRule:
    """The kernel has the batch axes, then those contracted, then those made; the bias lacks the ones contracted."""
    del nin
    linen, axes = isinstance(layer, nn.DenseGeneral), as_tuple(layer.axis)
    name = "features" if linen else "out_features"
    features = as_tuple(getattr(layer, name))
    batch = "_ " * len(layer.batch_dims if isinstance(layer, nn.DenseGeneral) else layer.batch_axis)
    reads = " ".join("in" if axis == -1 else "_" for axis in axes)
    makes = "_ " * (len(features) - 1) + "out"
    own = initialisers(layer, "kernel", "bias")
    plain = len(features) == len(axes) == 1 and not batch
    last = "" if isinstance(getattr(layer, name), int) else f".{len(features) - 1}"
    return LayerRule(
        leaves=present(kernel=f"{batch}{reads} {makes}", bias=layer.use_bias and batch + makes),
        sizes={f"{name}{last}": "out"} | ({} if linen or -1 not in axes else {f"in_features.{axes.index(-1)}": "in"}),
        initialisers={key: _flat(init, len(features)) for key, init in own.items()},
        identity={"params/kernel": identity_kernel, "params/bias": filled_with(0.0)}
        if plain and axes == (-1,)
        else None,
        fixed=None if -1 in axes else {"in": f"axes {axes} are contracted, and neurons (axis -1) become positions"},
        example=(1, *(1,) * (len(axes) - 1)),
        positional=len(axes) > 1 or bool(batch),
    )


def _flat(init: Initialiser, made: int) -> Initialiser:
    """Flax initialises as a matrix what it then gives several axes."""

    def initialise(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        read = math.prod(shape[:-made])
        flat = (read, math.prod(shape[-made:])) if len(shape) > made else (math.prod(shape),)
        return init(key, flat, dtype).reshape(shape)

    return initialise


@describes(nn.Einsum, nnx.Einsum)
def einsum(layer: nn.Einsum | nnx.Einsum, nin: tuple[int, ...]) -> LayerRule:
    """``einsum(equation, x, kernel) + bias``; the bias has those axes of the kernel that remain."""
    del nin
    read, kernel, made = _letters(layer)
    source, target = read[-1], made[-1]
    tokens = dict.fromkeys(kernel, "_")
    tokens |= {target: "<out"} if target in kernel and target not in read else {}
    tokens |= {source: "in"} if source in kernel else {}
    if source != target and tokens.get(target) != "<out":
        raise GraphError(
            f"{layer.einsum_str!r} makes neurons (the last axis of its output, {target!r}) of positions of its input. "
            "Let the kernel make them."
        )
    name = "shape" if isinstance(layer, nn.Module) else "kernel_shape"
    places = {"in": source, "<out": target}
    biased = layer.use_bias if isinstance(layer, nn.Module) else layer.bias is not None
    return LayerRule(
        leaves=present(
            kernel=" ".join(tokens[letter] for letter in kernel),
            bias=biased and " ".join(tokens[letter] for letter in made if letter in kernel),
        ),
        sizes={f"{name}.{kernel.index(places[t])}": t.removeprefix("<") for t in tokens.values() if t in places},
        shapes=shapes(layer, bias_shape="params/bias") if biased else {},
        new={"params/kernel": 1.0} if len(kernel) == 1 else {},  # it scales neurons
        initialisers=initialisers(layer, "bias") if len(kernel) == 1 else initialisers(layer, "kernel", "bias"),
        coupled=None if source in (*kernel, *made) else "it is summed over without weights",
        fixed={"in": "neurons become positions of the output"} if source in made[:-1] else None,
        example=(1,) * max(1, len(read) - 1),
        positional=any(letter in kernel for letter in read[:-1]),
    )


def _letters(layer: nn.Einsum | nnx.Einsum) -> tuple[str, str, str]:
    """The axes of input, kernel and output, a letter for each; those under an ellipsis are left out."""
    equation = layer.einsum_str
    if equation is None:
        raise GraphError("An Einsum needs its equation when it is made, einsum_str=..., to know what it ties.")
    inputs, _, made = equation.replace(" ", "").partition("->")
    read, _, kernel = inputs.partition(",")
    if "." in kernel or not read or not made or read.endswith(".") or made.endswith("."):
        raise GraphError(
            f"Einsum {equation!r}: neurons lie on the last axis of input and output, which needs a letter, and the "
            "kernel has a letter for each axis."
        )
    return read.replace(".", ""), kernel, made.replace(".", "")
