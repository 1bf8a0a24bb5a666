"""The layers that come with the library: importing this registers them."""

from flax import nnx

from naivenas_jax.layers import attention, convolution, linear, normalisation, pointwise, recurrent
from naivenas_jax.layers.nnx_op import NnxOp
from naivenas_jax.layers.registry import register_kind

__all__ = ["attention", "convolution", "linear", "normalisation", "pointwise", "recurrent"]

register_kind(nnx.Module, NnxOp.of)
