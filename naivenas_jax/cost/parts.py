"""The parts of a network, its vertices and modules, and which of them a contraction belongs to."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import takewhile
from typing import TypeAlias

from jax.extend.core import JaxprEqn

from naivenas_jax.errors import BudgetError
from naivenas_jax.graph.evaluation.name_scopes import computed_in
from naivenas_jax.graph.graph import Graph
from naivenas_jax.paths import Path, path_text
from naivenas_jax.trace.model.imported_op import ImportedOp
from naivenas_jax.trace.program.frame import Frame

#: Primitives that multiply the entries of two operands and add products up.
CONTRACTIONS = ("dot_general", "conv_general_dilated")
#: Paths of vertices, modules and variables, as text. What belongs to a path belongs to every path that it lies under.
Owners: TypeAlias = frozenset[str]


def owners(eqn: JaxprEqn, frame: Frame, around: Owners = frozenset()) -> Owners:
    """The parts that a contraction belongs to: the modules that it is computed in, and those whose weights it takes.

    A weight, however reshaped, cast or scaled, belongs to the innermost module that holds all the variables which it is
    computed from. So a table that an embedding lends to the last layer counts for both, and a product of two
    activations only for the module in which they meet.

    Args:
      eqn: the contraction.
      frame: the values around it.
      around: the owners of the equation whose jaxpr the contraction is in.
    """
    weights = (_common(frame.read(atom).variables) for atom in eqn.invars)
    return around.union(computed_in(eqn), filter(None, weights))


def _common(variables: Collection[Path]) -> str:
    """The longest path that variables have in common, without their collections."""
    names = takewhile(lambda names: len(set(names)) == 1, zip(*(path[1:] for path in variables), strict=False))
    return path_text(name for name, *_ in names)


def under(part: str, paths: Iterable[str]) -> bool:
    """Whether one of these paths is the part, or lies under it; everything lies under the empty part."""
    return not part or any(path == part or path.startswith(part + "/") for path in paths)


def parts(paths: Iterable[str]) -> list[str]:
    """All paths that one of these paths is, or lies under, outermost first."""
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
            for frame, eqn in ((one, eqn) for one in vertex.op.model.base.frame.every() for eqn in one.jaxpr.eqns):
                placed.update(computed_in(eqn))
                if eqn.primitive.name in CONTRACTIONS:
                    taking.update(path_text(p[1:-1]) for atom in eqn.invars for p in frame.read(atom).variables)
            if placed and (lost := {path for path in taking - {""} if not under(path, placed)}):
                raise BudgetError(
                    f"Where {min(lost)!r} computes cannot be told from the trace, and so not which part operations "
                    "belong to: nn.jit shares the trace of one module with others, and a module that is not called "
                    "itself leaves none. Import the model without nn.jit, limit the whole, or max_params= of parts."
                )


def without_operations(name: str, part: str, having: Sequence[str]) -> BudgetError:
    """The error to raise for a part that has no operations; it lists parts that have some."""
    more = ", ..." * (len(having) > 8)
    return BudgetError(
        f"{name} of {part!r}: no matrix product or convolution takes weights of {part!r}, or is computed in it. Parts "
        f"that have some: {', '.join(map(repr, having[:8])) or 'none'}{more}."
    )
