"""The way back: from a mutated import to the user's own linen module or nnx model."""
