"""Elementwise arithmetic between vertices (SizeInvariant): ``+ - * /`` and unary minus, as operators on vertices."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from weakref import WeakValueDictionary

from flax.core import Scope

from naivenas_jax.errors import GraphError, SizeMismatchError
from naivenas_jax.graph.op import Op
from naivenas_jax.graph.vertex import Vertex
from naivenas_jax.paths import path_text
from naivenas_jax.sizes.tying import Tying
from naivenas_jax.sizes.vector import Vector
from naivenas_jax.typing import PyTree


@dataclass(frozen=True)
class Elementwise(Op):
    """``x_1 o x_2 o ...`` per neuron: the i-th neuron of every input is tied to the i-th of the output.

    An input with a single neuron beside wider ones is broadcast, and stays single.
    """

    symbol: str

    @property
    def variadic(self) -> bool:
        """Whether it is a sum or a product."""
        return self.symbol in "+*"

    def tie(self, ports: tuple[Vector, ...], tying: Tying) -> Vector:
        """Tie neuron i of all inputs; an input with a single neuron that is broadcast is fixed."""
        widest = max(ports, key=len)
        for port in ports:
            if len(port) == len(widest):
                tying.tie(port, widest)
            elif len(port) == 1:
                tying.fix(port, "it is broadcast over a wider input")
            else:
                raise SizeMismatchError(
                    f"Vertex {path_text(tying.scope)!r} ({self.symbol}) ties its inputs neuron by neuron, found sizes "
                    f"{[len(p) for p in ports]}. All must be equal (or 1, which is broadcast): put a layer that "
                    "changes the size before the odd one."
                )
        return widest

    def call(self, scope: Scope, inputs: tuple[PyTree, ...], kwargs: Mapping[str, object]) -> PyTree:
        """Compute the expression, from left to right."""
        del scope, kwargs
        return -inputs[0] if self.symbol == "neg" else reduce(_FUNCTIONS[self.symbol], inputs)

    def describe(self) -> str:
        """The word "elementwise", and the symbol."""
        return f"elementwise {self.symbol}"


_FUNCTIONS: dict[str, Callable[[PyTree, PyTree], PyTree]] = {
    "+": operator.add,
    "*": operator.mul,
    "-": operator.sub,
    "/": operator.truediv,
}

#: The same expression written twice is the same vertex, since infix names are made from the operands' names.
_infix: WeakValueDictionary[tuple[str, tuple[Vertex, ...]], Vertex] = WeakValueDictionary()


def _operator(symbol: str) -> Callable[[Vertex, object], Vertex]:
    def infix(left: Vertex, right: object) -> Vertex:
        if not isinstance(right, Vertex):
            raise GraphError(
                f"Cannot compute {left.name!r} {symbol} {type(right).__name__}: both must be vertices. For constants "
                f"use nas.invariant_vertex(name, lambda x: x {symbol} {right!r:.20}, vertex)."
            )
        return _interned(f"{_operand(left)}{symbol}{_operand(right)}", symbol, (left, right))

    return infix


def _reflected(symbol: str) -> Callable[[Vertex, object], Vertex]:
    def infix(right: Vertex, left: object) -> Vertex:
        raise GraphError(
            f"Cannot compute {type(left).__name__} {symbol} {right.name!r}: both must be vertices. For constants use "
            f"nas.invariant_vertex(name, lambda x: {left!r:.20} {symbol} x, vertex)."
        )

    return infix


def _negate(vertex: Vertex) -> Vertex:
    return _interned(f"-{_operand(vertex)}", "neg", (vertex,))


def _interned(name: str, symbol: str, inputs: tuple[Vertex, ...]) -> Vertex:
    made = _infix.get((symbol, inputs))
    if made is None:
        made = _infix[symbol, inputs] = Vertex(name, Elementwise(symbol), inputs)
    return made


def _operand(vertex: Vertex) -> str:
    # "(a+b)*c" and "a+(b*c)" differ, so operands that carry an operator's own name get parentheses
    return f"({vertex.name})" if isinstance(vertex.op, Elementwise) and set(vertex.name) & set("+-*/") else vertex.name


for _symbol, _method in (("+", "__add__"), ("-", "__sub__"), ("*", "__mul__"), ("/", "__truediv__")):
    setattr(Vertex, _method, _operator(_symbol))
    setattr(Vertex, _method.replace("__", "__r", 1), _reflected(_symbol))
Vertex.__neg__ = _negate
Vertex.__array_ufunc__ = None  # numpy leaves arithmetic with vertices to the vertices, which refuse it
