"""To which parts of a network a contraction belongs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from typing import Any

from naivenas_jax.errors import BudgetError
from naivenas_jax.graph.evaluation.name_scopes import computed_in
from naivenas_jax.graph.graph import Graph
from naivenas_jax.trace.model.imported_op import ImportedOp
from naivenas_jax.trace.program.frame import Frame

CONTRACTIONS = ("dot_general", "conv_general_dilated")
#: Paths of vertices, modules and variables. What belongs to a path belongs to all that it lies under.
Owners = frozenset[str]


def owners(eqn: Any, frame: Frame, around: Owners = frozenset()) -> Owners:
    """What a contraction belongs to: the modules that it is computed in, and those whose weights it takes.

    A weight, however reshaped, cast or scaled, belongs to what all of the variables that it is made of lie under. So
    a table that an embedding lends to the last layer counts for both, and two activations only for where they meet.

    Args:
      eqn: the contraction.
      frame: the values around it.
      around: what the equation belongs to whose jaxpr it is in.
    """
    weights = (_common(frame.read(atom).variables) for atom in eqn.invars)
    return around.union(computed_in(eqn), filter(None, weights))


def _common(variables: set[tuple[str, ...]]) -> str:
    """The longest path that variables have in common, without their collections."""
    names = takewhile(lambda names: len(set(names)) == 1, zip(*(path[1:] for path in variables), strict=False))
    return "/".join(name for name, *_ in names)


def under(part: str, paths: Iterable[str]) -> bool:
    """Whether one of these paths is the part, or lies under it; everything lies under the empty part."""
    return not part or any(path == part or path.startswith(part + "/") for path in paths)


def parts(paths: Iterable[str]) -> list[str]:
    """All that one of these paths lies under, outermost first."""
    found = {tuple(path.split("/")[:end]) for path in paths for end in range(1, path.count("/") + 2)}
    return ["/".join(names) for names in sorted(found, key=lambda names: (len(names), names))]


def require_placed(graph: Graph) -> None:
    """Raise if a module of an imported model takes weights, and nothing in the trace is computed in that module.

    ``nn.jit`` takes the trace of one module for another of the same shapes, with the names of the first.

    Raises:
      BudgetError: names such a module.
    """
    for vertex in graph.vertices:
        if isinstance(vertex.op, ImportedOp):
            placed, taking = set[str](), set[str]()
            for eqn, frame in _equations(vertex.op.model.base.frame):
                placed.update(computed_in(eqn))
                if eqn.primitive.name in CONTRACTIONS:
                    taking.update("/".join(p[1:-1]) for atom in eqn.invars for p in frame.read(atom).variables)
            if placed and (lost := {path for path in taking - {""} if not under(path, placed)}):
                raise BudgetError(
                    f"Where {min(lost)!r} computes cannot be told from the trace, and so not which part operations "
                    "belong to: nn.jit shares the trace of one module with others, and a module that is not called "
                    "itself leaves none. Import the model without nn.jit, limit the whole, or max_params= of parts."
                )


def _equations(frame: Frame) -> Iterator[tuple[Any, Frame]]:
    return ((eqn, one) for one in frame.every() for eqn in one.jaxpr.eqns)


def without_operations(name: str, part: str, having: Sequence[str]) -> BudgetError:
    """What is raised for a part that has no operations, with those that have."""
    more = ", ..." * (len(having) > 8)
    return BudgetError(
        f"{name} of {part!r}: no matrix product or convolution takes weights of {part!r}, or is computed in it. Parts "
        f"that have some: {', '.join(map(repr, having[:8])) or 'none'}{more}."
    )
