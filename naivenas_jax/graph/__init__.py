"""The computation graph: vertices, operations, queries, evaluation."""

from naivenas_jax.graph import elementwise as elementwise  # gives vertices their operators
