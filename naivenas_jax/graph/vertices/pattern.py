"""A small notation for what lies on the dimensions of a parameter: ``"_ _ in out"`` for the kernel of a convolution.

Tokens, separated by blanks, one per dimension:

- ``in`` (or ``in0``, ``in1``, ... where there are several inputs): the neurons of that input,
- ``out``: the neurons of the output,
- the name of an inner axis of the layer,
- what is made of such axes: ``4*out``, ``a+b``, ``heads*width`` (`naivenas_jax.graph.vertices.expression`),
- ``_`` or a number: a dimension whose size never changes.

The last axis of a pattern is the one that the parameter *makes*, those before it are *read*: the convention of all
Flax kernels. Where a layer stores it the other way round, or makes several axes, ``<`` marks those that are made:
``"<out in"``, ``"in <heads <features"``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from naivenas_jax.errors import GraphError
from naivenas_jax.graph.vertices.expression import names_in, renamed, size_of, vector_of
from naivenas_jax.sizes.blocks import Blocks
from naivenas_jax.sizes.vector import Vector


@dataclass(frozen=True)
class Pattern:
    """A parsed pattern: per dimension the axis (None: fixed), the fixed size if it is given, and the role."""

    axes: tuple[str | None, ...]
    sizes: tuple[int | None, ...]
    roles: tuple[str | None, ...]

    def dims(self, vectors: Mapping[str, Vector], blocks: Blocks, where: str) -> tuple[Vector | None, ...]:
        """The vectors that lie on the dimensions."""
        made = [axis for axis in self.axes if axis is not None and axis not in vectors]  # of others, as 4*out is
        if missing := [name for axis in made for name in names_in(axis) if name not in vectors]:
            raise GraphError(
                f"Pattern of {where} names axis {missing[0]!r}, which the layer does not have. It has: "
                f"{', '.join(sorted(vectors))}; '_' or a number stands for a fixed dimension."
            )
        known = {**vectors, **{axis: vector_of(axis, vectors, blocks) for axis in made}}
        return tuple(None if axis is None else known[axis] for axis in self.axes)

    def shape(self, sizes: Mapping[str, int], fixed: Sequence[int | None]) -> tuple[int, ...]:
        """The shape of the parameter, given the sizes of the axes and of the fixed dimensions."""
        found = []
        for axis, size in zip(self.axes, fixed, strict=True):
            known = size if axis is None else size_of(axis, sizes)
            assert known is not None, f"{self} has a fixed dimension whose size is not given"
            found.append(known)
        return tuple(found)

    @property
    def made(self) -> tuple[int, ...]:
        """The dimensions on which the parameter makes neurons."""
        return tuple(d for d, role in enumerate(self.roles) if role == "out")

    @property
    def read(self) -> tuple[int, ...]:
        """The dimensions on which it does not."""
        return tuple(d for d, role in enumerate(self.roles) if role != "out")


@cache
def parse(text: str) -> Pattern:
    """Parse a pattern.

    >>> parse("_ 3 in out")
    Pattern(axes=(None, None, 'in0', 'out'), sizes=(None, 3, None, None), roles=(None, None, 'in', 'out'))
    """
    tokens = text.split()
    named = [i for i, token in enumerate(tokens) if token != "_" and not token.isdigit()]
    marked = [i for i in named if tokens[i].startswith("<")]
    made = marked or named[-1:]
    return Pattern(
        axes=tuple(_axis(token) if i in named else None for i, token in enumerate(tokens)),
        sizes=tuple(int(token) if token.isdigit() else None for token in tokens),
        roles=tuple(None if i not in named else "out" if i in made else "in" for i in range(len(tokens))),
    )


def _axis(token: str) -> str:
    return renamed(token.removeprefix("<"), {"in": "in0"})


def port_axes(ports: tuple[Vector, ...]) -> dict[str, Vector]:
    """The names under which the neurons of the inputs appear in patterns."""
    return {f"in{i}": port for i, port in enumerate(ports)}
