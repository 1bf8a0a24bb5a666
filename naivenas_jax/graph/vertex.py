"""A vertex: a name, a computation and the vertices that it reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar

import jax

from naivenas_jax.errors import GraphError
from naivenas_jax.graph.op import Op


@jax.tree_util.register_static
@dataclass(frozen=True, eq=False)
class Vertex:
    """One node of the computation graph: frozen, hashable and, as a pytree, without leaves.

    Make vertices with `naivenas_jax.input_vertex`, `naivenas_jax.layer`, `naivenas_jax.invariant_vertex` and their
    siblings, or with ``+ - * /`` on vertices. A vertex is compared by identity; graphs are compared by value.

    Attributes:
      name: the name, unique within a graph.
      op: the computation.
      inputs: the vertices that it reads, in order; the same one may occur more than once.
      nin: the number of neurons of each input.
      nout: the number of neurons of the output.

    Raises:
      GraphError: if the name is empty or has a ":", or an input is no vertex.
      SizeMismatchError: if the sizes of the inputs do not fit the computation.

    >>> import flax.linen as nn, naivenas_jax as nas
    >>> hidden = nas.layer("hidden", nn.Dense(8), nas.input_vertex("x", 3))
    >>> hidden.name, hidden.nin, hidden.nout, [source.name for source in hidden.inputs]
    ('hidden', (3,), 8, ['x'])
    """

    name: str
    op: Op
    inputs: tuple[Vertex, ...] = ()
    nin: tuple[int, ...] = field(init=False)
    nout: int = field(init=False)

    def __post_init__(self) -> None:
        _check_name(self.name)
        vertices_only(self.name, self.inputs)
        object.__setattr__(self, "nin", tuple(source.nout for source in self.inputs))
        object.__setattr__(self, "nout", self.op.width(self.name, self.nin))

    def named(self, name: str) -> Vertex:
        """The same vertex under another name; the way to name the result of an infix operator.

        Args:
          name: the new name.

        Returns:
          A new vertex; this one stays as it is.

        Raises:
          GraphError: if the name is empty or has a ":".

        >>> import naivenas_jax as nas
        >>> a, b = nas.input_vertex("a", 3), nas.input_vertex("b", 3)
        >>> (a + b).name, (a + b).named("sum").name
        ('a+b', 'sum')
        """
        return replace(self, name=name)

    def __repr__(self) -> str:
        reads = ", ".join(source.name for source in self.inputs)
        return f"Vertex({self.name!r}, {self.op.describe()}, inputs=[{reads}], nout={self.nout})"

    # The operators are set by naivenas_jax.graph.vertices.arithmetic, which knows the ops.
    __add__: ClassVar[Callable[[Vertex, Vertex], Vertex]]
    __sub__: ClassVar[Callable[[Vertex, Vertex], Vertex]]
    __mul__: ClassVar[Callable[[Vertex, Vertex], Vertex]]
    __truediv__: ClassVar[Callable[[Vertex, Vertex], Vertex]]
    __neg__: ClassVar[Callable[[Vertex], Vertex]]
    __array_ufunc__: ClassVar[None]


def in_the_place_of(vertex: Vertex, op: Op, inputs: tuple[Vertex, ...]) -> Vertex:
    """The vertex of the same name that computes ``op`` of ``inputs``; the very same one where nothing is different.

    One that computes the same of inputs of the same widths is not asked for its own width again.
    """
    if op is not vertex.op or tuple([source.nout for source in inputs]) != vertex.nin:
        return Vertex(vertex.name, op, inputs)
    if inputs == vertex.inputs:
        return vertex
    made = object.__new__(Vertex)
    vars(made).update({**vars(vertex), "inputs": inputs})
    return made


def vertices_only(name: str, inputs: tuple[Vertex, ...]) -> tuple[Vertex, ...]:
    """The inputs of the vertex ``name``, if they are vertices.

    Raises:
      GraphError: if one is not.
    """
    for source in inputs:
        if not isinstance(source, Vertex):
            raise GraphError(
                f"Input of vertex {name!r} must be a vertex, found {type(source).__name__}: {source!r:.80}. "
                "Start a graph from nas.input_vertex(name, size)."
            )
    return inputs


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not name or ":" in name:
        raise GraphError(
            f"A vertex name must be a non-empty string without ':', which separates a vertex from a factor of its axis "
            f"in a handle; found {name!r}."
        )
    if name == "params":
        raise GraphError(
            "A vertex cannot be called 'params': its variables would be variables['params']['params'], which Flax "
            "takes for a mistake. Give it another name."
        )
