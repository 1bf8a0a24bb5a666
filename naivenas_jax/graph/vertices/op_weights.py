"""What the weights of one vertex are as functions of its variables: asked of its computation, on shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache

import jax
from flax import core
from flax.core import Scope

from naivenas_jax.graph.op import Op
from naivenas_jax.jaxpr.weight_use import WeightUses, weight_uses
from naivenas_jax.paths import Path
from naivenas_jax.typing import Array, PyTree

#: Dimensions before the neurons: of a batch, of images, of sequences, of volumes.
LEADING = ((4,), (4, 8, 8), (4, 8), (4, 8, 8, 8))
#: A computation whose variables are weights as they are.
PLAIN = WeightUses({}, {})


def op_weights(
    op: Op, inputs: Iterable[tuple[tuple[int, ...], ...]], roles: Mapping[Path, tuple[str | None, ...]]
) -> WeightUses:
    """Which variables of a vertex become weights by a function, and what switches each of these weights off.

    Args:
      op: the computation of the vertex.
      inputs: shapes of its inputs to try; the first that it can be computed with are taken.
      roles: for each variable what its dimensions are, see `Leaf`; paths are those below the vertex.

    Returns:
      What is known; nothing where the computation cannot be tried: then what was declared is taken as it is.
    """
    return _found(op, tuple(inputs), tuple(roles.items()))


@lru_cache(maxsize=1024)
def _found(
    op: Op, inputs: tuple[tuple[tuple[int, ...], ...], ...], roles: tuple[tuple[Path, tuple[str | None, ...]], ...]
) -> WeightUses:
    known = dict(roles)

    def call(scope: Scope, *arrays: Array) -> PyTree:
        return op.call(scope, arrays, {})

    for shapes in inputs:
        try:
            traced = _traced(call, shapes)
        except Exception:  # whatever a user's function raises for made-up inputs
            continue
        return weight_uses(*traced, lambda origin: known.get(origin[0], ())[origin[1] :][:1] == ("in",))
    return PLAIN


def _traced(
    call: Callable[..., PyTree], shapes: tuple[tuple[int, ...], ...]
) -> tuple[jax.extend.core.ClosedJaxpr, list[Path | None]]:
    """The program of a computation, and for each of its arguments the variable that it is."""
    given = [jax.ShapeDtypeStruct(shape, "float32") for shape in shapes]
    variables = jax.eval_shape(lambda key, *xs: core.init(call)({"params": key}, *xs)[1], jax.random.key(0), *given)
    leaves, tree = jax.tree_util.tree_flatten_with_path(variables)
    paths = [tuple(key.key for key in keys) for keys, _ in leaves]
    program = jax.make_jaxpr(lambda values, *xs: core.apply(call)(jax.tree.unflatten(tree, values), *xs))(
        [leaf for _, leaf in leaves], *given
    )
    return program, [*paths, *[None] * len(given)]
