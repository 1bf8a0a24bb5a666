"""The computation graph: vertices, operations, queries, evaluation."""

from naivenas_jax.graph.vertices import arithmetic as arithmetic  # gives vertices their operators
