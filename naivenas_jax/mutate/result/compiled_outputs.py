"""The outputs of a network as one program, compiled once for each graph and way to call it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import jax

from naivenas_jax.graph.graph import Graph
from naivenas_jax.typing import PyTree

#: ``function(graph, *arrays, **keywords)``: the outputs of a network. A function of a module, and no closure.
Outputs: TypeAlias = Callable[..., tuple[PyTree, ...]]


def compiled(function: Outputs, graph: Graph, *arrays: PyTree, **keywords: object) -> tuple[PyTree, ...]:
    """``function(graph, *arrays, **keywords)`` as one program.

    Networks that look at the values of their arrays (``if x.sum() > 0``) are no program, and are computed operation by
    operation, as are those with keywords that cannot be hashed.

    Args:
      function: computes the outputs.
      graph: the network.
      *arrays: trees of arrays.
      **keywords: for the network; those that hold arrays, such as keys, are arguments of the program.
    """
    given = {name: value for name, value in keywords.items() if _holds_arrays(value)}
    said = tuple(sorted((name, value) for name, value in keywords.items() if name not in given))
    try:
        made: tuple[PyTree, ...] = _program(function, graph, said, arrays, given)
        return made
    except Exception:  # whatever it is: without a program the network works, or says it in its own words
        return function(graph, *arrays, **keywords)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _program(
    function: Outputs,
    graph: Graph,
    said: tuple[tuple[str, object], ...],
    arrays: tuple[PyTree, ...],
    given: dict[str, PyTree],
) -> tuple[PyTree, ...]:
    return function(graph, *arrays, **dict(said), **given)


def _holds_arrays(value: object) -> bool:
    return any(hasattr(leaf, "dtype") for leaf in jax.tree.leaves(value))
