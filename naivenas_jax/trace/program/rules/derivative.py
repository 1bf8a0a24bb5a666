"""Functions with derivative rules of their own. Inlining would lose the rules (the gradient of relu at 0)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from naivenas_jax.errors import StructureError
from naivenas_jax.sizes.blocks import Vector
from naivenas_jax.trace.program.analysis import Analysis, Frame, unknown, vectors_of
from naivenas_jax.trace.program.rebind import Sizes, bind, evaluate
from naivenas_jax.trace.program.rules.call import opened
from naivenas_jax.trace.program.table import binds, ties
from naivenas_jax.trace.program.value import Value, constant


@ties("custom_jvp_call")
def custom_jvp(analysis: Analysis, frame: Frame, eqn: Any, values: Sequence[Value]) -> list[Value]:
    """What the inner jaxpr ties; its rule for derivatives is analysed when somebody differentiates."""
    jaxpr, consts = opened(eqn.params["call_jaxpr"])
    return analysis.inner(frame, jaxpr, [constant(c) for c in consts], values)


@binds("custom_jvp_call")
def bind_custom_jvp(sizes: Sizes, frame: Frame, eqn: Any, arrays: Sequence[Any]) -> list[Any]:
    """A function with the same rule for derivatives."""
    (body, own), (inner,) = opened(eqn.params["call_jaxpr"]), frame.inner[frame.position]
    count = eqn.params["num_consts"]
    values = [frame.read(atom) for atom in eqn.invars[count:]]

    @jax.custom_jvp
    def function(*xs: Any) -> Any:
        return tuple(evaluate(body, inner, sizes, own, [*arrays[:count], *xs]))

    @function.defjvp
    def rule(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> Any:
        moves = [_differentiable(atom.aval) for atom in eqn.invars[count:]]
        jaxpr, consts, zero = eqn.params["jvp_jaxpr_fun"].call_wrapped(*(not move for move in moves))
        moving = [t for t, m in zip(tangents, moves, strict=True) if m]
        like = [*values, *(v for v, m in zip(values, moves, strict=True) if m)]
        results = _evaluate_apart(jaxpr, like, sizes, consts, [*primals, *moving])
        outputs, rest = results[: len(zero)], iter(results[len(zero) :])
        return tuple(outputs), tuple(
            _no_tangent(out) if z else next(rest) for out, z in zip(outputs, zero, strict=True)
        )

    return list(function(*arrays[count:]))


def _differentiable(aval: Any) -> bool:
    return bool(jnp.issubdtype(aval.dtype, jnp.inexact))


def _no_tangent(array: Any) -> Any:
    return jnp.zeros_like(array) if _differentiable(array) else jnp.zeros(jnp.shape(array), jax.dtypes.float0)


def _evaluate_apart(
    jaxpr: Any, values: Sequence[Value], sizes: Sizes, consts: Sequence[Any], arrays: Sequence[Any]
) -> list[Any]:
    """Analyse a jaxpr by itself, given what its arguments are outside, and evaluate it with the sizes from there."""
    analysis, frame, parts = Analysis(), Frame(), dict[int, Vector]()

    def known(dim: Vector) -> Vector:
        return Vector.concat([part(run) for run in sizes.rows[dim]])

    def part(run: int) -> Vector:
        if run not in parts:
            factors = [Vector.concat([part(r) for r in row]) for row in sizes.products.get(run, ())]
            parts[run] = analysis.tying.blocks.product(factors) if factors else analysis.tying.new(sizes.before[run])
        return parts[run]

    arguments = [Value(tuple(dim and known(dim) for dim in value.dims), value.weight) for value in values]
    analysis.walk(jaxpr, frame, [constant(c) for c in consts], arguments)
    plain = [run for run in parts if run not in sizes.products]
    vectors = [*(parts[run] for run in plain), *vectors_of(frame)]
    ties, rows = analysis.tying.freeze_with(vectors)
    runs = list(ties.run_sizes)
    for run, row in zip(plain, rows, strict=False):
        now = sizes.runs[run]
        if now == sizes.before[run] and all(runs[r] == ties.run_sizes[r] for r in row):
            continue
        if len(row) != 1 or runs[row[0]] not in (ties.run_sizes[row[0]], now):
            raise StructureError("A custom derivative rule takes a resized axis apart, which is not understood.")
        runs[row[0]] = now
    apart = Sizes(dict(zip(vectors, rows, strict=True)), runs, ties.products, ties.run_sizes)
    return evaluate(jaxpr, frame, apart, consts, arrays)


@dataclass(frozen=True, eq=False)
class _Rule:
    """The rule of a `jax.custom_vjp` as jaxprs.

    Attributes:
      forward: the jaxpr of the function that returns residuals, then results.
      consts: its constants.
      backward: the jaxpr from residuals and cotangents of results to cotangents of arguments.
      given: for each argument, whether it gets a cotangent.
      forwarded: for each residual the operand that it is, or None if ``forward`` returns it.
    """

    forward: Any
    consts: Sequence[Any]
    backward: Any
    given: tuple[bool, ...]
    forwarded: tuple[int | None, ...]

    @classmethod
    def of(cls, eqn: Any) -> _Rule:
        params, count = eqn.params, eqn.params["num_consts"]
        forward, consts = params["fwd_jaxpr_thunk"].call_wrapped(*(True for _ in eqn.invars[count:]))
        _, _, forwarded = params["out_trees"]()
        returned = iter(var.aval for var in forward.outvars)
        residuals = [next(returned) if f is None else eqn.invars[f].aval for f in forwarded]
        given: list[bool] = []

        def backward(*cotangents: Any) -> list[Any]:
            results = params["bwd"].call_wrapped(*cotangents)
            given.extend(isinstance(result, jax.Array) for result in results)
            return [result for result in results if isinstance(result, jax.Array)]

        avals = [*residuals, *(var.aval for var in eqn.outvars)]
        jaxpr = jax.make_jaxpr(backward)(*(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in avals))
        return cls(forward, consts, jaxpr, tuple(given), tuple(forwarded))

    def residuals(self, operands: Sequence[Any], results: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """Split what ``forward`` returned into residuals and results."""
        own = sum(f is None for f in self.forwarded)
        rest = iter(results[:own])
        return [next(rest) if f is None else operands[f] for f in self.forwarded], list(results[own:])


@ties("custom_vjp_call")
def custom_vjp(analysis: Analysis, frame: Frame, eqn: Any, values: Sequence[Value]) -> list[Value]:
    """What the function ties, and what its rule for derivatives ties."""
    if eqn.params["symbolic_zeros"]:
        return unknown(analysis, frame, eqn, values, "whose rule for derivatives sees symbolic zeros")
    if not all(_differentiable(var.aval) for var in eqn.outvars):
        return unknown(analysis, frame, eqn, values)
    try:
        rule = _Rule.of(eqn)
    except Exception:  # a rule of somebody else, run with what it may not expect; the function itself is still good
        return unknown(analysis, frame, eqn, values)
    jaxpr, consts = opened(eqn.params["call_jaxpr"])
    results = analysis.inner(frame, jaxpr, [constant(c) for c in consts], values)
    frame.rules[frame.position] = rule
    loud, analysis.quiet = analysis.quiet, True
    _tie_rule(analysis, frame, eqn, rule, values, results)
    analysis.quiet = loud
    return results


def _tie_rule(
    analysis: Analysis, frame: Frame, eqn: Any, rule: _Rule, values: Sequence[Value], results: Sequence[Value]
) -> None:
    own = values[eqn.params["num_consts"] :]
    reason = "a custom derivative rule holds it fixed"
    found = analysis.inner(frame, rule.forward, [constant(c) for c in rule.consts], own)
    residuals, again = rule.residuals(values, found)
    for a, b in zip(results, again, strict=True):
        analysis.tie_all(a, b, reason)
    jaxpr, consts = opened(rule.backward)
    cotangents = [Value(value.dims) for value in results]
    back = iter(analysis.inner(frame, jaxpr, [constant(c) for c in consts], [*residuals, *cotangents]))
    for value, given in zip(own, rule.given, strict=True):
        if given:
            analysis.tie_all(replace(value), next(back), reason)


@binds("custom_vjp_call")
def bind_custom_vjp(sizes: Sizes, frame: Frame, eqn: Any, arrays: Sequence[Any]) -> list[Any]:
    """A function with the same rule for derivatives."""
    if frame.position not in frame.rules:
        return bind(eqn, arrays)
    rule, frames = frame.rules[frame.position], frame.inner[frame.position]
    count = eqn.params["num_consts"]

    def run(inner: Frame, closed: Any, consts: Sequence[Any], operands: Iterable[Any]) -> list[Any]:
        return evaluate(closed, inner, sizes, consts, list(operands))

    @jax.custom_vjp
    def function(*xs: Any) -> Any:
        return tuple(run(frames[0], *opened(eqn.params["call_jaxpr"]), [*arrays[:count], *xs]))

    def forward(*xs: Any) -> Any:
        results = run(frames[1], rule.forward, rule.consts, xs)
        residuals, outputs = rule.residuals([*arrays[:count], *xs], results)
        return tuple(outputs), residuals

    def backward(residuals: Any, cotangents: Any) -> Any:
        results = iter(run(frames[2], *opened(rule.backward), [*residuals, *cotangents]))
        return tuple(next(results) if given else None for given in rule.given)

    function.defvjp(forward, backward)
    return list(function(*arrays[count:]))
