"""The table of primitives: for each what it ties, and how it is bound again with other sizes.

A primitive that is not in the table freezes what it reads: sound, and visible in the handles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from naivenas_jax.trace.value import Value

if TYPE_CHECKING:
    from naivenas_jax.trace.analysis import Analysis, Frame
    from naivenas_jax.trace.rebind import Sizes

#: ``(analysis, frame, eqn, values) -> values of the results``
TieRule = Callable[["Analysis", "Frame", Any, Sequence[Value]], Sequence[Value]]
#: ``(sizes, frame, eqn, arrays) -> results``
BindRule = Callable[["Sizes", "Frame", Any, Sequence[Any]], Sequence[Any]]

TIES: dict[str, TieRule] = {}
BINDS: dict[str, BindRule] = {}


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
