"""Whether two traced functions are the same computation, found by numbering values.

Two values have the same number if the same primitive makes them, with the same parameters, from values of the same
numbers. Calls (jit, custom derivatives, remat) are looked through, names are ignored. Functions whose results have the
same numbers compute the same, bit for bit and whatever their arguments are. The converse does not hold: then they have
to be run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax.extend import core as jex

#: Primitives that only call, and which parameter is what they call.
_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
    "checkpoint": "jaxpr",
    "remat2": "jaxpr",
}


@dataclass
class Numbering:
    """Numbers of values; what is numbered by the same object can be compared.

    Attributes:
      numbers: by how a value is made.
      new: equations that made a value with a new number, in order.
    """

    numbers: dict[Any, int] = field(default_factory=dict)
    new: list[Any] = field(default_factory=list)

    def results(self, closed: Any) -> list[int]:
        """The numbers of the results of a jaxpr."""
        arguments = [self._number(("argument", i)) for i in range(len(closed.jaxpr.invars))]
        return self._walk(closed.jaxpr, closed.consts, arguments)

    def _walk(self, jaxpr: Any, consts: Sequence[Any], arguments: Sequence[int]) -> list[int]:
        known = dict(zip(jaxpr.constvars, map(self._constant, consts), strict=True))
        known.update(zip(jaxpr.invars, arguments, strict=True))

        def read(atom: Any) -> int:
            return self._literal(atom) if isinstance(atom, jex.Literal) else known[atom]

        for eqn in jaxpr.eqns:
            known.update(zip(eqn.outvars, self._made(eqn, [read(atom) for atom in eqn.invars]), strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _made(self, eqn: Any, operands: list[int]) -> list[int]:
        name = eqn.primitive.name
        if name == "name":
            return operands
        if name in _CALLS and _CALLS[name] in eqn.params:
            inner = eqn.params[_CALLS[name]]
            closed = inner if isinstance(inner, jex.ClosedJaxpr) else None
            return self._walk(closed.jaxpr if closed else inner, closed.consts if closed else (), operands)
        params = eqn.params
        if name == "slice" and params["strides"] is None:
            params = {**params, "strides": (1,) * len(params["start_indices"])}
        made = (name, tuple(operands), self._frozen(params), tuple(str(var.aval) for var in eqn.outvars))
        if made not in self.numbers:
            self.new.append(eqn)
        self._number(made)
        return [self._number((made, i)) for i in range(len(eqn.outvars))]

    def _frozen(self, value: Any) -> Any:
        """A parameter as a value. Two that print alike are alike, for what does not is shown with its address."""
        if isinstance(value, jex.ClosedJaxpr):
            inner = [self._number(("inner", i)) for i in range(len(value.jaxpr.invars))]
            return ("jaxpr", tuple(self._walk(value.jaxpr, value.consts, inner)))
        if isinstance(value, jex.Jaxpr):
            inner = [self._number(("inner", i)) for i in range(len(value.invars))]
            return ("jaxpr", tuple(self._walk(value, (), inner)))
        if isinstance(value, Mapping):
            return tuple((key, self._frozen(item)) for key, item in sorted(value.items()))
        if isinstance(value, tuple | list):
            return tuple(self._frozen(item) for item in value)
        if isinstance(value, np.ndarray | jax.Array):
            return self._constant(value)
        return type(value).__name__, repr(value)

    def _constant(self, array: Any) -> int:
        if jax.dtypes.issubdtype(getattr(array, "dtype", np.float32), jax.dtypes.extended):
            array = jax.random.key_data(array)
        numbers = np.asarray(array)
        return self._number(("constant", numbers.shape, str(numbers.dtype), numbers.tobytes()))

    def _literal(self, atom: Any) -> int:
        if not hasattr(atom.aval, "dtype") or jax.dtypes.issubdtype(atom.aval.dtype, jax.dtypes.extended):
            return self._number(("literal", repr(atom.val)))
        return self._constant(np.asarray(atom.val, atom.aval.dtype))

    def _number(self, made: Any) -> int:
        return self.numbers.setdefault(made, len(self.numbers))


def same(mine: Any, theirs: Any) -> bool:
    """Whether two jaxprs are the same computation.

    >>> import jax.numpy as jnp
    >>> f, g = (lambda x: jax.nn.relu(x * 2) + 1), (lambda y: jnp.maximum(2 * (0 + y), 0.0) + 1)
    >>> trace = lambda fn: jax.make_jaxpr(fn)(1.0)
    >>> same(trace(f), trace(jax.jit(f))), same(trace(f), trace(g))
    (True, False)
    """
    numbering = Numbering()
    return numbering.results(mine) == numbering.results(theirs)


def new_in(mine: Any, theirs: Any) -> Iterator[Any]:
    """The equations of one jaxpr that the other does not have, in order."""
    numbering = Numbering()
    numbering.results(theirs)
    numbering.new.clear()
    numbering.results(mine)
    return iter(numbering.new)


def traced(call: Callable[[Any, Any], Any], variables: Any, shapes: Any) -> Any:
    """The jaxpr of a call whose outputs are any pytree."""
    return jax.make_jaxpr(lambda v, a: jax.tree.leaves(call(v, a)))(variables, shapes)
