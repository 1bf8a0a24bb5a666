"""The layers that come with the library: importing this module registers them."""

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

#: The modules whose functions are the rules.
MODULES = (attention, convolution, dense_general, linear, lora, normalisation, pointwise, recurrent, sequence, wrapper)
