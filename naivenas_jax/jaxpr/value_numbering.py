"""Whether two traced functions are the same computation, found by value numbering.

Two values have the same number if the same primitive makes them, with the same parameters, from values of the same
numbers. Calls (jit, custom derivatives, remat) are looked through, and names of values are ignored. Functions whose
results have the same numbers compute the same, bit for bit and whatever their arguments are. The converse does not
hold: functions whose numbers differ may compute the same, and have to be run.

Source: Alpern, Wegman and Zadeck, Detecting equality of variables in programs, POPL 1988.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex

from naivenas_jax.jaxpr.interpret import called, closed, interpret

#: Parameters of these types are compared as they are. Most are of these.
_PLAIN = (int, bool, type(None))
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


@dataclass(frozen=True, eq=False)
class ValueNumbering:
    """The numbers of the values of several traced functions, which can be compared with one another.

    Attributes:
      numbers: the number of a value, by the way that it is made.
      new: the equations that made a value with a new number, in order.
      named: the values that have names (see `jax.ad_checkpoint.checkpoint_name`), in order: name, number, and rank.
      addresses: whether functions among the parameters are other ones if they lie elsewhere in memory. A function that
        is written inside a model lies elsewhere each time that the model is traced.
    """

    numbers: dict[Hashable, int] = field(default_factory=dict)
    new: list[jex.JaxprEqn] = field(default_factory=list)
    named: list[tuple[str, int, int]] = field(default_factory=list)
    addresses: bool = True

    def results(self, traced: jex.ClosedJaxpr) -> list[int]:
        """The numbers of the results of a function."""
        return self._results(traced, "argument")

    def _results(self, traced: jex.ClosedJaxpr, arguments: str) -> list[int]:
        """The numbers of the results of a jaxpr whose arguments are numbered under a name."""
        numbers = [self._number((arguments, i)) for i in range(len(traced.jaxpr.invars))]
        return interpret(traced, numbers, self._equation, self._constant)

    def _equation(self, eqn: jex.JaxprEqn, operands: list[int]) -> list[int]:
        if eqn.primitive.name == "name":
            self.named.append((eqn.params["name"], operands[0], len(getattr(eqn.outvars[0].aval, "shape", ()))))
            return operands
        if (inner := called(eqn)) is not None:
            return interpret(inner, operands, self._equation, self._constant)
        made = (
            eqn.primitive.name,
            tuple(operands),
            self._parameters(eqn),
            tuple(_said(var.aval) for var in eqn.outvars),
        )
        if made not in self.numbers:
            self.new.append(eqn)
        self._number(made)
        return [self._number((made, i)) for i in range(len(eqn.outvars))]

    def _parameters(self, eqn: jex.JaxprEqn) -> Hashable:
        params = eqn.params
        if eqn.primitive.name == "slice" and params["strides"] is None:
            params = {**params, "strides": (1,) * len(params["start_indices"])}
        return self._frozen(params)

    def _frozen(self, value: object) -> Hashable:
        """A parameter as a value to compare.

        Two parameters that print alike are alike: a value that does not print its content is shown with its address.
        """
        if type(value) in _PLAIN:
            return type(value).__name__, value
        if isinstance(value, tuple | list):
            return tuple(self._frozen(item) for item in value)
        if isinstance(value, jex.Jaxpr | jex.ClosedJaxpr):
            return ("jaxpr", tuple(self._results(closed(value), "inner")))
        if isinstance(value, Mapping):
            return tuple((key, self._frozen(item)) for key, item in sorted(value.items()))
        if isinstance(value, np.ndarray | jax.Array):
            return self._array(value)
        said = repr(value)
        return type(value).__name__, said if self.addresses else _ADDRESS.sub("", said)

    def _constant(self, value: object, aval: jax.core.AbstractValue) -> int:
        """The number of a constant or literal."""
        if isinstance(value, jax.core.Tracer):  # an array of a function that is being traced around this one
            return self._number(("traced", id(value)))
        dtype = getattr(aval, "dtype", None)
        if dtype is not None and not jnp.issubdtype(dtype, jax.dtypes.extended):
            return self._array(np.asarray(value, dtype))
        return self._array(value) if isinstance(value, jax.Array) else self._number(("literal", repr(value)))

    def _array(self, array: np.ndarray | jax.Array) -> int:
        if jnp.issubdtype(array.dtype, jax.dtypes.extended):
            array = jax.random.key_data(array)
        content = np.asarray(array)
        return self._number(("constant", content.shape, str(content.dtype), content.tobytes()))

    def _number(self, made: Hashable) -> int:
        return self.numbers.setdefault(made, len(self.numbers))


@lru_cache(maxsize=4096)
def _said(aval: jax.core.AbstractValue) -> str:
    """A type of arrays in words. A program has few of them, many times."""
    return str(aval)


def same_computation(first: jex.ClosedJaxpr, second: jex.ClosedJaxpr, *, addresses: bool = True) -> bool:
    """Whether two traced functions are the same computation.

    Args:
      first: one function.
      second: another one.
      addresses: whether functions among the parameters are other ones if they lie elsewhere in memory.

    >>> import jax.numpy as jnp
    >>> f, g = (lambda x: jax.nn.relu(x * 2) + 1), (lambda y: jnp.maximum(2 * (0 + y), 0.0) + 1)
    >>> trace = lambda fn: jax.make_jaxpr(fn)(1.0)
    >>> same_computation(trace(f), trace(jax.jit(f))), same_computation(trace(f), trace(g))
    (True, False)
    """
    numbering = ValueNumbering(addresses=addresses)
    return numbering.results(first) == numbering.results(second)


def new_equations(traced: jex.ClosedJaxpr, known: jex.ClosedJaxpr) -> Sequence[jex.JaxprEqn]:
    """The equations of one traced function whose values another one does not have, in order."""
    numbering = ValueNumbering()
    numbering.results(known)
    numbering.new.clear()
    numbering.results(traced)
    return numbering.new
