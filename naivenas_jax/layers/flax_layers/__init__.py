"""The rules of Flax's own layers, linen and nnx."""
