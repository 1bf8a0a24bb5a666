"""Networks that somebody already has: from any JAX function of (variables, inputs) to a graph."""
