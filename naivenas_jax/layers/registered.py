"""The layers that come with the library: importing this registers them."""

from flax import nnx

from naivenas_jax.layers.flax_layers import (
    attention,
    convolution,
    dense_general,
    linear,
    lora,
    normalisation,
    pointwise,
    recurrent,
    sequence,
    wrapper,
)
from naivenas_jax.layers.ops.nnx_op import NnxOp
from naivenas_jax.layers.registry import register_kind

#: The modules whose functions are the rules.
MODULES = (attention, convolution, dense_general, linear, lora, normalisation, pointwise, recurrent, sequence, wrapper)

register_kind(nnx.Module, NnxOp.of)
