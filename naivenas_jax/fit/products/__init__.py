"""Products of two activations: what of them is kept when fewer neurons are contracted."""
