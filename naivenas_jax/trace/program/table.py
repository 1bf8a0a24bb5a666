"""The table of primitives: for each what it ties, and how it is bound again with other sizes.

A primitive that is not in the table freezes what it reads: sound, and visible in the handles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from naivenas_jax.trace.program.value import Value

if TYPE_CHECKING:
    from naivenas_jax.trace.program.analysis import Analysis, Frame
    from naivenas_jax.trace.program.rebind import Sizes

#: ``(analysis, frame, eqn, values) -> values of the results``
TieRule = Callable[["Analysis", "Frame", Any, Sequence[Value]], Sequence[Value]]
#: ``(sizes, frame, eqn, arrays) -> results``
BindRule = Callable[["Sizes", "Frame", Any, Sequence[Any]], Sequence[Any]]

TIES: dict[str, TieRule] = {}
BINDS: dict[str, BindRule] = {}

#: What is left fixed on purpose, with the reason.
FROZEN: dict[str, str] = {
    **dict.fromkeys(["pure_callback", "io_callback", "ffi_call", "call_exported"], "a function outside of JAX"),
    **dict.fromkeys(
        ["eig", "eigh", "svd", "qr", "lu", "lu_pivots_to_permutation", "cholesky", "cholesky_update", "schur", "geqrf"],
        "linear algebra in which every entry depends on all",
    ),
    **dict.fromkeys(
        ["householder_product", "hessenberg", "triangular_solve", "tridiagonal", "tridiagonal_solve", "ormqr", "geqp3"],
        "linear algebra in which every entry depends on all",
    ),
    **dict.fromkeys(["custom_linear_solve", "linear_call", "custom_partitioning"], "whose rules cannot be rebuilt"),
    **dict.fromkeys(["new_ref", "get", "swap", "addupdate", "freeze", "run_state"], "which works on mutable arrays"),
    **dict.fromkeys(["ragged_dot_general", "scaled_dot"], "whose groups depend on the data"),
    **dict.fromkeys(["approx_top_k", "reduce", "reduce_window", "select_and_scatter"], "whose order matters"),
    **dict.fromkeys(
        ["random_gamma", "random_seed", "random_wrap", "random_unwrap", "random_split"], "which makes keys"
    ),
}

#: Computed already when the model is analysed, if all operands are known.
FOLDED = frozenset(
    (
        *["abs", "add", "and", "broadcast_in_dim", "clamp", "concatenate", "convert_element_type", "cumsum", "div"],
        *["eq", "floor", "gather", "ge", "gt", "integer_pow", "iota", "le", "lt", "max", "min", "mul", "ne", "neg"],
        *["not", "or", "pad", "reduce_sum", "rem", "reshape", "rev", "round", "rsqrt", "select_n", "sign", "slice"],
        *["sort", "sqrt", "square", "squeeze", "stack", "sub", "tile", "transpose", "xor"],
    )
)


def ties(*primitives: str) -> Callable[[TieRule], TieRule]:
    """Register what primitives tie."""
    return lambda rule: _register(TIES, primitives, rule)


def binds(*primitives: str) -> Callable[[BindRule], BindRule]:
    """Register how primitives are bound again; without, they are bound with the parameters that they had."""
    return lambda rule: _register(BINDS, primitives, rule)


def _register(table: dict[str, Any], primitives: Sequence[str], rule: Any) -> Any:
    for primitive in primitives:
        if primitive in table:
            raise AssertionError(f"There are two rules for the primitive {primitive!r}.")
        table[primitive] = rule
    return rule
