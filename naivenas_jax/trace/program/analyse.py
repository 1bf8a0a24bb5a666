"""From a traced program to ties: its arguments, its equations, its results, and names for axes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import jax.numpy as jnp
from jax.extend import core as jex

from naivenas_jax.graph.model_vertex import Place
from naivenas_jax.jaxpr.interpret import Atom
from naivenas_jax.jaxpr.weight_use import WeightUse, WeightUses, weight_uses
from naivenas_jax.paths import Path
from naivenas_jax.sizes.ties import Ties
from naivenas_jax.sizes.vector import Vector
from naivenas_jax.trace.program import rules as rules  # fills the tables
from naivenas_jax.trace.program.analysis import Analysis
from naivenas_jax.trace.program.axis_names import DEPTH, ENDS as ENDS, Made, named
from naivenas_jax.trace.program.capture import Role, TracedProgram
from naivenas_jax.trace.program.frame import Frame, NamedValue
from naivenas_jax.trace.program.lookups import are_values
from naivenas_jax.trace.program.value import Dim, Lookup, Origin, Value, variable

#: Why neurons that no variable and no input has are fixed.
_COPIES = "they are copies that the model makes itself, in a number that nothing says"
_CONSTANTS = "nothing but constants of the model has these neurons"


@dataclass(frozen=True, eq=False)
class Analysed:
    """A traced program and what was found out about it.

    Attributes:
      program: the traced program.
      frame: what is known of every value in it.
      ties: the ties of its variables, inputs and outputs, with an axis for every dimension of a variable.
      rows: for each vector in the frame the runs that it consists of.
      places: the values that the model has names for, once for each time that they are computed.
      constant_runs: the runs that constants have entries for, and that may change.
    """

    program: TracedProgram
    frame: Frame
    ties: Ties
    rows: Mapping[Vector, tuple[int, ...]]
    places: Mapping[Place, Sequence[NamedValue]]
    constant_runs: tuple[int, ...] = ()


def analyse(program: TracedProgram, loose: Collection[Path] = (), *, sizes_alone: bool = False) -> Analysed:
    """Find the ties of a traced program. An updated variable is tied to the variable that it updates.

    Args:
      program: the traced program.
      loose: the parameters among its variables that are in no collection.
      sizes_alone: whether it is only to be known which sizes there are: how variables become weights is left out.

    Returns:
      Its ties, and what else is known of it.

    The last dimension of an input of floats, or of whole numbers that are values (pictures), and of an output, lies on
    the axis `end_axis`: whether it may change is for the verbs to say. All other dimensions of inputs and outputs are
    fixed.
    """
    closed = program.closed
    analysis, frame = Analysis(), Frame(closed.jaxpr)
    pairs = zip(program.arguments, closed.jaxpr.invars, strict=True)
    arguments = [_argument(analysis, role, atom, closed.jaxpr) for role, atom in pairs]
    results = analysis.walk(closed, frame, arguments)
    variables = {r.which: v for r, v in zip(program.arguments, arguments, strict=True) if isinstance(r.which, tuple)}
    for role, value in zip(program.results, results, strict=True):
        _result(analysis, variables.get(role.which) if isinstance(role.which, tuple) else None, value)
    analysis.couple_norms()
    paths = [role.which if isinstance(role.which, tuple) else None for role in program.arguments]
    weights = WeightUses({}, {}) if sizes_alone else weight_uses(closed, paths, analysis.roles.__contains__)
    for (path, d), reason in weights.never_zero.items():
        analysis.couple(variables[path].dims[d], reason)
    made = _declare(analysis, variables, weights.uses, loose)
    for kind, roles, values in (("input", program.arguments, arguments), ("output", program.results, results)):
        _declare_ends(analysis, [v for r, v in zip(roles, values, strict=True) if r.kind == kind], kind)
    for number, part in enumerate(analysis.parts):
        analysis.tying.called(part, f"~part{number}")
    vectors = list(frame.vectors())
    ties, found = analysis.tying.freeze_with(vectors)
    rows = dict(zip(vectors, found, strict=True))
    ties, runs = _with_constants(
        ties, [rows[dim] for own in frame.every() for dims in own.cut() for dim in dims if dim]
    )
    return Analysed(program, frame, named(ties, made), rows, analysis.places, runs)


def _with_constants(ties: Ties, rows: Sequence[tuple[int, ...]]) -> tuple[Ties, tuple[int, ...]]:
    """The same ties, in which the neurons that a constant has entries for are an axis; and the runs on these axes.

    On an axis of their own they are told from other neurons, so that new ones are like old ones of the same axis.
    Neurons that no variable and no input has are fixed, those of constants and copies that a broadcast makes: a call
    with other arguments is traced anew, and learns sizes from variables and inputs alone.

    Args:
      ties: the ties.
      rows: the runs on the dimensions of constants.
    """
    ends = [axis for axis in ties.axes if axis.startswith(ENDS[0])]
    owned = {axis for leaf in ties.leaves.values() for axis in leaf.axes if axis is not None}.union(ends)
    known = ties.plain(run for axis in owned for run in ties.axes[axis])
    runs = ties.plain(run for row in rows for run in row) - ties.fixed.keys()
    copies = ties.plain(range(len(ties.run_sizes))) - ties.fixed.keys() - known
    fixed = {**ties.fixed, **dict.fromkeys(copies, _COPIES), **dict.fromkeys(runs - known, _CONSTANTS)}
    free = runs & known
    own = [row for row in dict.fromkeys(rows) if ties.plain(row) & free]
    axes = {**ties.axes, **{f"~constant{number}": row for number, row in enumerate(own)}}
    return replace(ties, axes=axes, fixed=fixed), tuple(sorted(free))


def end_axis(kind: str, number: int) -> str:
    """The name of the axis on the last dimension of an input or output of the model, if it can change."""
    return f"~{kind}:{number}"


def _argument(analysis: Analysis, role: Role, atom: Atom, program: jex.Jaxpr) -> Value:
    """What is known of an argument of a program before anything is computed."""
    aval = atom.aval
    if isinstance(role.which, tuple):
        return variable(tuple(analysis.new(n) for n in aval.shape), role.which)
    fixed: tuple[Dim, ...] = (None,) * aval.ndim
    if role.kind != "input":
        return Value(fixed)
    whole = jnp.issubdtype(aval.dtype, jnp.integer)
    if aval.ndim > 1 and (jnp.issubdtype(aval.dtype, jnp.inexact) or (whole and are_values(program, atom))):
        return Value((*fixed[:-1], analysis.new(aval.shape[-1])))
    return Value(fixed, lookup=Lookup()) if whole else Value(fixed)


def _result(analysis: Analysis, variable: Value | None, value: Value) -> None:
    """Tie a result: an updated variable to the variable, an output to nothing but its last dimension."""
    analysis.fix_positions(value.lookup, "that is a result of the model")
    if variable is None:
        analysis.joins(value)
        for dim in value.dims[:-1]:
            analysis.fix(dim, "it is a dimension of an output of the model other than the last")
        return
    for a, b in zip(variable.dims, value.dims, strict=True):
        analysis.tie(a, b, "it is updated with something of fixed size")


def _declare(
    analysis: Analysis, variables: Mapping[Path, Value], weights: Mapping[Path, WeightUse], loose: Collection[Path]
) -> list[Made]:
    """Declare every variable as a leaf; returns the variables that make neurons."""
    found = []
    layers = frozenset[Origin]().union(*(each.stacked for each in analysis.rounds))
    last = frozenset[Origin]().union(*(each.last or () for each in analysis.rounds))
    for number, each in enumerate(analysis.rounds):
        analysis.tying.layers(each.dim)
        analysis.tying.called(each.dim, f"{DEPTH}{number}")
    for path, value in variables.items():
        read = {d for d in range(len(value.dims)) if (path, d) in analysis.roles}
        made = [d for d, dim in enumerate(value.dims) if dim is not None and d not in read and (path, d) not in layers]
        drawn = {d for d in read if (path, d) in analysis.drawn}
        reads = {d for d in range(len(value.dims)) if (d in read and d not in drawn) or (path, d) in last}
        roles = tuple(None if dim is None else "in" if d in reads else "out" for d, dim in enumerate(value.dims))
        neutral = 1.0 if path in analysis.neutral and reads <= read else 0.0
        looked_up = tuple(sorted(d for d in read - drawn if (path, d) in analysis.indexed))
        start, weight = None if read else neutral, weights.get(path)
        trained = path[0] == "params" or path in loose
        analysis.tying.leaf(
            path[0], path[1:], value.dims, roles, start, looked_up=looked_up, weight=weight, parameter=trained
        )
        for d in sorted(read - set(looked_up)):
            if (path, d) in analysis.makes and (dim := value.dims[d]) is not None:
                analysis.tying.single(dim)
        if read:
            if len(read) == len(value.dims):
                # A table that is read on both dimensions (an embedding tied to the output) makes neurons on the
                # dimension that it is not indexed on.
                made = [d for d in sorted(read) if (path, d) not in analysis.indexed and value.dims[d] is not None]
            axes = tuple(_axes(analysis, value.dims[d], _own_axis(path, d)) for d in made)
            found.append(Made(path, axes, len(value.dims) - 1 in made))
        for d, dim in enumerate(value.dims):
            if dim is not None and not (read and d in made) and (path, d) not in layers:
                analysis.tying.called(dim, _own_axis(path, d))
    return found


def _own_axis(path: Path, dim: int) -> str:
    """The name of the axis of a dimension of a variable, the same whatever the dimension is tied to."""
    return f"~{'/'.join(path)}[{dim}]"


def _declare_ends(analysis: Analysis, values: Sequence[Value], kind: str) -> None:
    """Name the axes of inputs or outputs."""
    for number, value in enumerate(values):
        if value.dims and value.dims[-1] is not None:
            analysis.tying.called(value.dims[-1], end_axis(kind, number))


def _axes(analysis: Analysis, dim: Vector | None, axis: str) -> tuple[str, tuple[str, ...]]:
    """Name a dimension, and the factors of the products on it: one projection may make queries, keys and values."""
    if dim is None:
        raise AssertionError(f"{axis} makes no neurons.")
    analysis.tying.called(dim, axis)
    factors = analysis.tying.blocks.factors_within(dim)
    for number, factor in enumerate(factors):
        analysis.tying.called(factor, f"{axis}:{number}")
    return axis, tuple(f"{axis}:{number}" for number in range(len(factors)))
