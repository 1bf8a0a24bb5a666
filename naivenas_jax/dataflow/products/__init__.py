"""Products of two activations, contracted over neurons: queries and keys of an attention, bilinear layers."""
