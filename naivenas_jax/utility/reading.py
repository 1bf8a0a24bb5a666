"""What weights read: every activation that is contracted with a variable, in any function of (variables, inputs).

The function is traced and evaluated again, equation by equation, with an eye on the variables: where one of them, cast
or transposed or computed from variables alone, meets an activation in a matrix product or convolution, the activation
is shown. This needs no knowledge of layers, and is the same for hand-written and imported graphs. What happens inside
loops (``scan``, ``while``, ``cond``) is out of sight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.extend import core as jex

from naivenas_jax.paths import Path
from naivenas_jax.transfer.variables import flat, nested

#: ``(path, dimension of the variable, activation, dimension of the activation)``
Show = Callable[[Path, int, Any, int], None]

_CALLS = frozenset(
    ("jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "checkpoint", "remat", "remat2")
)
_SAME = frozenset(
    ("convert_element_type", "copy", "copy_p", "reduce_precision", "mul", "div", "add", "sub", "neg", "max", "min")
)


@dataclass(frozen=True)
class Seen:
    """An array of the evaluation.

    Attributes:
      array: its value.
      weight: whether it depends on variables and constants only.
      path: the variable that it is, perhaps cast, transposed or scaled by others.
      dims: for each dimension that of the variable.
    """

    array: Any
    weight: bool = False
    path: Path | None = None
    dims: tuple[int, ...] = ()


def read(fn: Callable[..., Any], variables: Mapping[str, Any], inputs: Sequence[Any], show: Show) -> Any:
    """``fn(variables, *inputs)``, with every activation that a variable is contracted with shown. Works under jit."""
    arrays = flat(variables)
    closed, shape = jax.make_jaxpr(
        lambda values, given: fn(nested(dict(zip(arrays, values, strict=True))), *given), return_shape=True
    )(list(arrays.values()), list(inputs))
    leaves = [Seen(a, True, path, tuple(range(a.ndim))) for path, a in arrays.items()]
    arguments = [*leaves, *(Seen(array) for array in jax.tree.leaves(list(inputs)))]
    results = _walk(closed.jaxpr, [Seen(c, True) for c in closed.consts], arguments, show)
    return jax.tree.unflatten(jax.tree.structure(shape), [seen.array for seen in results])


def _walk(jaxpr: Any, consts: Sequence[Seen], arguments: Sequence[Seen], show: Show) -> list[Seen]:
    known: dict[Any, Seen] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *arguments), strict=True))

    def value(atom: Any) -> Seen:
        return Seen(atom.val, True) if isinstance(atom, jex.Literal) else known[atom]

    for eqn in jaxpr.eqns:
        known.update(zip(eqn.outvars, _results(eqn, [value(atom) for atom in eqn.invars], show), strict=True))
    return [value(atom) for atom in jaxpr.outvars]


def _results(eqn: Any, operands: Sequence[Seen], show: Show) -> list[Seen]:
    name = eqn.primitive.name
    if name in _CALLS:
        closed = next(eqn.params[key] for key in ("jaxpr", "call_jaxpr") if key in eqn.params)
        inner, consts = (closed.jaxpr, closed.consts) if hasattr(closed, "consts") else (closed, ())
        return _walk(inner, [Seen(c, True) for c in consts], operands, show)
    _show(eqn, operands, show)
    bound = eqn.primitive.bind(*(o.array for o in operands), **eqn.primitive.get_bind_params(eqn.params))
    arrays = list(bound) if eqn.primitive.multiple_results else [bound]
    weight = all(operand.weight for operand in operands)
    origin = _origin(eqn, operands) if weight else None
    return [Seen(array, weight, *(origin or ())) for array in arrays]


def _origin(eqn: Any, operands: Sequence[Seen]) -> tuple[Path, tuple[int, ...]] | None:
    """The variable that the result still is."""
    shape = eqn.outvars[0].aval.shape
    own = [o for o in operands if o.path is not None and o.array.ndim == len(shape)]
    if eqn.primitive.name == "transpose" and own:
        return own[0].path, tuple(own[0].dims[d] for d in eqn.params["permutation"])  # type: ignore[return-value]
    same = [o for o in own if tuple(o.array.shape) == tuple(shape)]
    if eqn.primitive.name in _SAME and len(same) == 1:
        return same[0].path, same[0].dims  # type: ignore[return-value]
    return None


def _show(eqn: Any, operands: Sequence[Seen], show: Show) -> None:
    if eqn.primitive.name == "dot_general":
        left, right = operands
        (left_dims, right_dims), _ = eqn.params["dimension_numbers"]
        pairs = [*zip(left_dims, right_dims, strict=True)]
        for weight, other, dims in ((left, right, pairs), (right, left, [(b, a) for a, b in pairs])):
            if weight.path is not None and not other.weight:
                for mine, theirs in dims:
                    show(weight.path, weight.dims[mine], other.array, theirs)
    elif eqn.primitive.name == "conv_general_dilated" and eqn.params["feature_group_count"] == 1:
        image, kernel = operands
        numbers = eqn.params["dimension_numbers"]
        if kernel.path is not None and not image.weight:
            show(kernel.path, kernel.dims[numbers.rhs_spec[1]], image.array, numbers.lhs_spec[1])
