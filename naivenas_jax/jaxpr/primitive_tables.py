"""Tables of primitives, and lists of those that are treated alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

#: What a table says about a primitive.
R = TypeVar("R")

#: Primitives that fix the axes of their operands on purpose, with the reason.
FROZEN: Mapping[str, str] = {
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

#: Primitives that are evaluated during the analysis already, if all operands are known then: from their results
#: models make positions of neurons.
FOLDED = frozenset(
    (
        *["abs", "add", "and", "broadcast_in_dim", "clamp", "concatenate", "convert_element_type", "cumsum", "div"],
        *["eq", "floor", "gather", "ge", "gt", "integer_pow", "iota", "le", "lt", "max", "min", "mul", "ne", "neg"],
        *["not", "or", "pad", "reduce_sum", "rem", "reshape", "rev", "round", "rsqrt", "select_n", "sign", "slice"],
        *["sort", "sqrt", "square", "squeeze", "stack", "sub", "tile", "transpose", "xor"],
    )
)


def register(table: dict[str, R], primitives: Iterable[str]) -> Callable[[R], R]:
    """A decorator that enters a rule into a table of primitives."""

    def enter(rule: R) -> R:
        for primitive in primitives:
            if primitive in table:
                raise AssertionError(f"There are two rules for the primitive {primitive!r}.")
            table[primitive] = rule
        return rule

    return enter
