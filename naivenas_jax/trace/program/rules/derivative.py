"""Functions with derivative rules of their own: inlining would lose the rules, the gradient of relu at 0 for one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr

from naivenas_jax.errors import StructureError
from naivenas_jax.jaxpr.interpret import Equation, bind
from naivenas_jax.sizes.origins import carried
from naivenas_jax.sizes.ties import Ties
from naivenas_jax.sizes.vector import Vector
from naivenas_jax.trace.program.analysis import Analysis, ties, unknown
from naivenas_jax.trace.program.frame import Frame
from naivenas_jax.trace.program.rebind import NewSizes, binds, evaluate_resized
from naivenas_jax.trace.program.rules.call import jaxpr_of
from naivenas_jax.trace.program.value import Value
from naivenas_jax.typing import Array

#: A value of the analysis, or an array.
T = TypeVar("T")


@ties("custom_jvp_call")
def custom_jvp(analysis: Analysis, frame: Frame, eqn: Equation, values: Sequence[Value]) -> list[Value]:
    """What the function ties. Its rule for derivatives is analysed when somebody differentiates."""
    return analysis.inner(frame, eqn, jaxpr_of(eqn), values)


@binds("custom_jvp_call")
def bind_custom_jvp(sizes: NewSizes, frame: Frame, eqn: Equation, arrays: list[Array]) -> list[Array]:
    """A function with the same rule for derivatives."""
    (inner,), count = frame.inner[eqn], eqn.params["num_consts"]
    values = [frame.read(atom) for atom in eqn.invars[count:]]
    moves = [_differentiable(atom.aval) for atom in eqn.invars[count:]]

    @jax.custom_jvp
    def function(*xs: jax.Array) -> tuple[Array, ...]:
        return tuple(evaluate_resized(jaxpr_of(eqn), inner, sizes, [*arrays[:count], *xs]))

    @function.defjvp
    def rule(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        jaxpr, consts, zero = eqn.params["jvp_jaxpr_fun"].call_wrapped(*(not move for move in moves))
        moving = [t for t, m in zip(tangents, moves, strict=True) if m]
        like = [*values, *(v for v, m in zip(values, moves, strict=True) if m)]
        results = _evaluate_apart(ClosedJaxpr(jaxpr, consts), like, sizes, [*primals, *moving])
        outputs, rest = results[: len(zero)], iter(results[len(zero) :])
        return tuple(outputs), tuple(
            _no_tangent(out) if z else next(rest) for out, z in zip(outputs, zero, strict=True)
        )

    return list(function(*arrays[count:]))


def _differentiable(aval: jax.core.ShapedArray | Array) -> bool:
    """Whether an array has derivatives; whole numbers have none."""
    return bool(jnp.issubdtype(aval.dtype, jnp.inexact))


def _no_tangent(array: Array) -> jax.Array:
    """A tangent of zeros; JAX gives whole numbers one of a dtype without entries."""
    return jnp.zeros_like(array) if _differentiable(array) else jnp.zeros(jnp.shape(array), jax.dtypes.float0)


def _evaluate_apart(
    closed: ClosedJaxpr, values: Sequence[Value], sizes: NewSizes, arrays: Sequence[Array]
) -> list[Array]:
    """Analyse a jaxpr by itself, and evaluate it with new sizes.

    Args:
      closed: the jaxpr.
      values: what the analysis of the whole program knows of its arguments.
      sizes: the new sizes in the whole program.
      arrays: the arguments.
    """
    analysis, frame, parts = Analysis(), Frame(closed.jaxpr), dict[int, Vector]()

    def known(dim: Vector) -> Vector:
        return Vector.concat([part(run) for run in sizes.rows[dim]])

    def part(run: int) -> Vector:
        if run not in parts:
            factors = [Vector.concat([part(r) for r in row]) for row in sizes.before.products.get(run, ())]
            parts[run] = (
                analysis.tying.blocks.product(factors) if factors else analysis.tying.new(sizes.before.run_sizes[run])
            )
        return parts[run]

    arguments = [
        Value(tuple(dim and known(dim) for dim in value.dims), value.weight, constant=value.constant)
        for value in values
    ]
    analysis.walk(closed, frame, arguments)
    plain = [run for run in parts if run not in sizes.before.products]
    vectors = [*(parts[run] for run in plain), *frame.vectors()]
    ties, rows = analysis.tying.freeze_with(vectors)
    own = dict(zip(plain, rows, strict=False))
    now = ties.resized(dict(enumerate(_runs_apart(own, ties.run_sizes, sizes))))
    same = [([run], row[0]) for run, row in own.items() if len(row) == 1]
    origins, alive = carried(sizes.origins, ties, same), _alive_apart(own, now, sizes)
    apart = NewSizes(dict(zip(vectors, rows, strict=True)), now, ties, origins, alive=alive)
    return evaluate_resized(closed, frame, apart, arrays)


def _runs_apart(rows: Mapping[int, tuple[int, ...]], before: Sequence[int], sizes: NewSizes) -> list[int]:
    """The new sizes of the runs of an analysis apart.

    Args:
      rows: for runs of the whole program the runs apart that they consist of.
      before: the sizes of the runs apart in their analysis.
      sizes: the new sizes in the whole program.

    Raises:
      StructureError: if a resized run of the whole program consists of several runs apart.
    """
    runs = list(before)
    for run, row in rows.items():
        now = sizes.now.run_sizes[run]
        same = now == sizes.before.run_sizes[run] and not sizes.origins.changed([run])
        if same and all(runs[r] == before[r] for r in row):
            continue
        if len(row) != 1 or runs[row[0]] not in (before[row[0]], now):
            raise StructureError("A custom derivative rule takes a resized axis apart, which is not understood.")
        runs[row[0]] = now
    return runs


def _alive_apart(rows: Mapping[int, tuple[int, ...]], now: Ties, sizes: NewSizes) -> dict[int, jax.Array]:
    """Which neurons count of the runs of an analysis apart; ``rows`` as for `_runs_apart`."""
    alive = {}
    for run, mask in sizes.alive.items():
        start = 0
        for part in rows.get(run, ()):
            alive[part] = mask[start : start + now.run_sizes[part]]
            start += now.run_sizes[part]
    return alive


@dataclass(frozen=True, eq=False)
class _VjpRule:
    """The rule of a `jax.custom_vjp` as jaxprs.

    Attributes:
      forward: from arguments to residuals, then results.
      backward: from residuals and cotangents of results to cotangents of arguments.
      given: for each argument, whether it gets a cotangent.
      forwarded: for each residual the operand that it is, or None if ``forward`` returns it.
    """

    forward: ClosedJaxpr
    backward: ClosedJaxpr
    given: tuple[bool, ...]
    forwarded: tuple[int | None, ...]

    @classmethod
    def of(cls, eqn: Equation) -> _VjpRule:
        """The rule of an equation; raises whatever the rule raises."""
        params, count = eqn.params, eqn.params["num_consts"]
        forward, consts = params["fwd_jaxpr_thunk"].call_wrapped(*(True for _ in eqn.invars[count:]))
        _, _, forwarded = params["out_trees"]()
        returned = iter(forward.out_avals)
        residuals = [next(returned) if f is None else eqn.invars[f].aval for f in forwarded]
        given: list[bool] = []

        def backward(*cotangents: jax.Array) -> list[jax.Array]:
            results = params["bwd"].call_wrapped(*cotangents)
            given.extend(isinstance(result, jax.Array) for result in results)
            return [result for result in results if isinstance(result, jax.Array)]

        avals = [*residuals, *(var.aval for var in eqn.outvars)]
        jaxpr = jax.make_jaxpr(backward)(*(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in avals))
        return cls(ClosedJaxpr(forward, consts), jaxpr, tuple(given), tuple(forwarded))

    def residuals(self, operands: Sequence[T], results: Sequence[T]) -> tuple[list[T], list[T]]:
        """Split what ``forward`` returned into residuals and results."""
        own = sum(f is None for f in self.forwarded)
        rest = iter(results[:own])
        return [next(rest) if f is None else operands[f] for f in self.forwarded], list(results[own:])


@ties("custom_vjp_call")
def custom_vjp(analysis: Analysis, frame: Frame, eqn: Equation, values: Sequence[Value]) -> list[Value]:
    """What the function and its rule for derivatives tie."""
    if eqn.params["symbolic_zeros"]:
        return unknown(analysis, frame, eqn, values, "whose rule for derivatives sees symbolic zeros")
    if not all(_differentiable(var.aval) for var in eqn.outvars):
        return unknown(analysis, frame, eqn, values)
    try:
        rule = _VjpRule.of(eqn)
    except Exception:  # a rule of somebody else, run with what it may not expect; the function itself is still good
        return unknown(analysis, frame, eqn, values)
    results = analysis.inner(frame, eqn, jaxpr_of(eqn), values)
    frame.notes[eqn] = rule
    _tie_rule(replace(analysis, quiet=True), frame, eqn, rule, values, results)
    return results


def _tie_rule(
    analysis: Analysis, frame: Frame, eqn: Equation, rule: _VjpRule, values: Sequence[Value], results: Sequence[Value]
) -> None:
    own = values[eqn.params["num_consts"] :]
    reason = "a custom derivative rule holds it fixed"
    found = analysis.inner(frame, eqn, rule.forward, own)
    residuals, again = rule.residuals(values, found)
    for a, b in zip(results, again, strict=True):
        analysis.tie_all(a, b, reason)
    cotangents = [Value(value.dims) for value in results]
    back = iter(analysis.inner(frame, eqn, rule.backward, [*residuals, *cotangents]))
    for value, given in zip(own, rule.given, strict=True):
        if given:
            analysis.tie_all(value, next(back), reason)


@binds("custom_vjp_call")
def bind_custom_vjp(sizes: NewSizes, frame: Frame, eqn: Equation, arrays: list[Array]) -> list[Array]:
    """A function with the same rule for derivatives."""
    rule, count = frame.notes.get(eqn), eqn.params["num_consts"]
    if not isinstance(rule, _VjpRule):
        return bind(eqn, arrays)
    of_function, of_forward, of_backward = frame.inner[eqn]

    @jax.custom_vjp
    def function(*xs: jax.Array) -> tuple[Array, ...]:
        return tuple(evaluate_resized(jaxpr_of(eqn), of_function, sizes, [*arrays[:count], *xs]))

    def forward(*xs: jax.Array) -> tuple[tuple[Array, ...], list[Array]]:
        results = evaluate_resized(rule.forward, of_forward, sizes, xs)
        residuals, outputs = rule.residuals([*arrays[:count], *xs], results)
        return tuple(outputs), residuals

    def backward(residuals: list[Array], cotangents: tuple[Array, ...]) -> tuple[Array | None, ...]:
        results = iter(evaluate_resized(rule.backward, of_backward, sizes, [*residuals, *cotangents]))
        return tuple(next(results) if given else None for given in rule.given)

    function.defvjp(forward, backward)
    return list(function(*arrays[count:]))
