"""Conditions on sizes with which a user's own class can say them.

A number of the class (a field, an entry of a configuration) moves some runs of neurons by so much for each step. The
model is traced once more for each number, with another value in its place, and the runs of the two traces are compared.
So ``width`` moves the width of all blocks by 1 and the features of each of 4 heads by 1/4: then these sizes change in
this proportion, and in steps of 4 and 1. Where two numbers move the same run, the one that moves more runs may change,
and the other one stays.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple, TypeAlias

import flax.linen as nn
import jax
from flax import nnx
from jax.extend import core as jex

from naivenas_jax.checks import require_flag, require_progress
from naivenas_jax.errors import RebuildError
from naivenas_jax.graph.graph import Graph, require_graph
from naivenas_jax.jaxpr.interpret import Equation, equations
from naivenas_jax.paths import is_unnamed
from naivenas_jax.progress import tracked
from naivenas_jax.sizes.condition import Condition, Size, multiple_of, size
from naivenas_jax.trace.back.compare import ModelCall
from naivenas_jax.trace.back.imported_model import check_same_model, imported_op
from naivenas_jax.trace.back.linen.linen_rebuild import linen_call
from naivenas_jax.trace.back.linen.resized_module import without_resizing
from naivenas_jax.trace.back.linen.shape_memo import ShapeMemo
from naivenas_jax.trace.back.nnx_rebuild import built_like, nnx_arguments, nnx_call, nnx_shapes
from naivenas_jax.trace.back.numbers.config_numbers import (
    ConfigNumber,
    NewNumbers,
    config_numbers,
    config_text,
    reconfigured,
)
from naivenas_jax.trace.model.imported_op import ImportedOp
from naivenas_jax.trace.model.traced_model import Keys
from naivenas_jax.trace.program.analyse import Analysed, analyse
from naivenas_jax.trace.program.capture import capture
from naivenas_jax.trace.program.frame import Frame
from naivenas_jax.trace.program.value import Dim
from naivenas_jax.transfer.variables import flat
from naivenas_jax.typing import Array, PyTree, Shape, Variables

#: Makes the model with other numbers; None: there is none.
_Variant: TypeAlias = Callable[[NewNumbers], "_Made | None"]
#: How a model is called, and the shapes of its variables.
_Made: TypeAlias = tuple[ModelCall, Mapping[tuple[str, ...], Shape]]


class _Direction(NamedTuple):
    """How runs move together.

    Attributes:
      number: the number of the class that moves them, as text.
      steps: for each run that moves, by how much in the smallest step.
    """

    number: str
    steps: Mapping[int, int]


def class_constraints(
    model: nn.Module | nnx.Module, graph: Graph, *, fields: bool = True, progress: bool | None = None
) -> tuple[Condition, ...]:
    """Conditions with which the sizes are such that the user's own class can say them, for ``constraints=`` of verbs.

    `rebuild` then gives back an object of the class itself, with other numbers in its fields, where without them it may
    have to set sizes of modules inside, or find that a line of the class makes equal parts.

    Args:
      model: the linen module or nnx model that `from_linen` or `from_nnx` was given.
      graph: the graph that was imported, or one that changes of sizes made of it.
      fields: whether all sizes have to be said by the numbers in the fields of the model (of an nnx model: by the
        arguments of its class, if it keeps them all as attributes). False: sizes inside may be others, and only what
        the code cuts into equal parts stays equal.
      progress: whether to show how far it is: None: in a terminal and a notebook, after a second; True: elsewhere
        too, in lines on standard error; False: never.

    Returns:
      Conditions on the sizes of axes. With ``fields=True`` sizes that no field says stay what they are; of two fields
      that say one size (a width and a number of heads) the one that says more sizes may change.

    Raises:
      GraphError: if ``graph`` is no graph.
      RebuildError: if the graph is not that of one imported model, or ``model`` is not that model.

    >>> import jax, jax.numpy as jnp, flax.linen as nn, naivenas_jax as nas
    >>> class Blocks(nn.Module):
    ...     width: int = 8
    ...     @nn.compact
    ...     def __call__(self, x):
    ...         x = nn.Dense(self.width, name="stem")(x)
    ...         for i in range(2):
    ...             x = x + nn.Dense(self.width)(nn.relu(nn.Dense(2 * self.width, name=f"up{i}")(x)))
    ...         return nn.Dense(2)(x)
    >>> x = jnp.ones((1, 3))
    >>> graph, variables = nas.from_linen(Blocks(), Blocks().init(jax.random.key(0), x), x)
    >>> own = nas.class_constraints(Blocks(), graph)
    >>> mutation = nas.delta_nout(graph, variables, {"up1": -4}, constraints=own)
    >>> nas.rebuild(Blocks(), mutation).width
    6
    """
    require_flag(fields, "fields", RebuildError)
    require_progress(progress, RebuildError)
    op = imported_op(require_graph(graph))
    check_same_model(model, op.model)
    names = {run: f"~{run}" for run in op.model.base.ties.plain(range(len(op.runs)))}
    for axis, row in op.model.base.ties.axes.items():
        if len(row) == 1 and row[0] in names and is_unnamed(names[row[0]]) and not is_unnamed(axis):
            names[row[0]] = axis
    if not fields:
        return tuple(dict.fromkeys(_equal_parts(op.model.base, names)))
    own, variant = _linen_variants(model, op) if isinstance(model, nn.Module) else _nnx_variants(model, op)
    if variant is None:
        return tuple(dict.fromkeys(_equal_parts(op.model.base, names)))
    with tracked(own, f"class_constraints {type(model).__name__}, numbers", progress) as numbers:
        directions = list(_directions(numbers, variant, op))
    return tuple(_conditions(directions, op.model.base, names))


def _conditions(directions: Sequence[_Direction], base: Analysed, names: Mapping[int, str]) -> Iterator[Condition]:
    """The conditions that runs move in these directions, and all others stay."""
    ties = base.ties
    moved: set[int] = set()
    for number, steps in sorted(directions, key=lambda direction: -len(direction.steps)):
        if moved & steps.keys():
            continue
        moved |= steps.keys()
        reason = f"the class says them by {number}"
        first = min(steps, key=lambda run: (abs(steps[run]), run))
        away = {run: size(names[run]) - ties.run_sizes[run] for run in steps}
        if abs(steps[first]) > 1:
            yield multiple_of(away[first], abs(steps[first])).because(reason)
        for run in steps.keys() - {first}:
            yield (away[run] * steps[first] == away[first] * steps[run]).because(reason)
    for run in names.keys() - moved - ties.fixed.keys():
        yield (size(names[run]) == ties.run_sizes[run]).because("no field of the class says it")


def _directions(own: Iterable[ConfigNumber], variant: _Variant, op: ImportedOp) -> Iterator[_Direction]:
    """How each number of a model moves its runs, if it does so in proportion, and moves none that is fixed."""
    base = op.model.base.ties
    for number in own:
        found: list[tuple[int | float, dict[int, int]]] = []
        for value in _other_values(number.value):
            moved = _moved(variant({number.path: value}), op)
            if moved is not None:
                found.append((value, moved))
            if len([each for _, each in found if each]) == 2:
                break
        moving = [(value, moved) for value, moved in found if moved]
        if number.value is None or not moving or any(run in base.fixed for _, moved in moving for run in moved):
            continue
        steps = _smallest(moving[0][1], number.value, moving[0][0], len(found) > len(moving))
        if all(_in_proportion(steps, moved) for _, moved in moving):
            yield _Direction(config_text(number.path), steps)


def _moved(made: _Made | None, op: ImportedOp) -> dict[int, int] | None:
    """By how much runs are moved by another number; None: the model has other variables then, or is none."""
    before = {path: struct.shape for path, struct in op.model.variables}
    if made is None or made[1].keys() != before.keys():
        return None
    call, variables = made
    if all(variables[path].shape == shape for path, shape in before.items()):
        return {}
    runs = _runs(call, {path: variables[path] for path in before}, op)
    base = op.model.base.ties
    if runs is None:
        return None
    return {
        run: runs[run] - base.run_sizes[run] for run in base.plain(range(len(runs))) if runs[run] != base.run_sizes[run]
    }


def _other_values(value: int | float | None) -> Sequence[int | float]:
    """Values to put in the place of a number: for whole ones the next, then others, which more numbers divide."""
    if isinstance(value, int) and value > 0:
        return [*(value + 2**i for i in range(4) if 2**i < value), 2 * value, 3 * value]
    return (2 * value, 1.5 * value) if isinstance(value, float) and value else ()


def _in_proportion(steps: Mapping[int, int], moved: Mapping[int, int]) -> bool:
    """Whether runs moved by a number of steps."""
    times = {Fraction(change, steps[run]) if run in steps else None for run, change in moved.items()}
    return steps.keys() == moved.keys() and len(times) == 1


def _smallest(moved: Mapping[int, int], old: int | float, new: int | float, rounded: bool) -> dict[int, int]:
    """The smallest step of runs that move together.

    Args:
      moved: by how much each run moves.
      old: when this number of the class ...
      new: ... becomes this.
      rounded: whether smaller changes of the number move nothing: then this is the smallest.
    """
    if rounded and isinstance(old, int):
        return dict(moved)
    if not isinstance(old, int):
        common = math.gcd(*moved.values())
        return {run: change // common for run, change in moved.items()}
    slopes = {run: Fraction(change, int(new) - old) for run, change in moved.items()}
    step = math.lcm(*(slope.denominator for slope in slopes.values()))
    return {run: int(slope * step) for run, slope in slopes.items()}


def _runs(call: ModelCall, variables: Mapping[tuple[str, ...], Shape], op: ImportedOp) -> tuple[int, ...] | None:
    """The sizes of the runs of a model with other numbers; None: its runs are others."""

    def traced(
        values: Variables, data: Sequence[Array], keys: Keys, extra: Sequence[Array]
    ) -> tuple[PyTree, Variables]:
        del keys, extra
        return call(values, data), {}

    base = op.model.base.ties
    try:
        ties = analyse(capture(traced, dict(variables), op.model.inputs, {}, [], once=True), sizes_alone=True).ties
    except Exception:  # whatever the user's code raises with this number
        return None
    alike = len(ties.run_sizes) == len(base.run_sizes) and ties.products == base.products
    rows = [ties.axes.get(axis) == row for axis, row in base.axes.items()]
    return ties.run_sizes if alike and all(rows) else None


def _linen_variants(module: nn.Module, op: ImportedOp) -> tuple[list[ConfigNumber], _Variant]:
    own, _ = without_resizing(module)
    memo = ShapeMemo()

    def variant(changes: NewNumbers) -> _Made | None:
        new = reconfigured(own, changes)
        keys = {"params": jax.random.key(0), **op.model.keys}
        args, kwargs = op.model.arguments.join(op.model.inputs), dict(op.model.defaults)
        try:
            with nn.intercept_methods(memo.intercept):
                made = jax.eval_shape(lambda: new.init(keys, *_zeros(args), **kwargs))
        except Exception:  # whatever the user's code raises with this number
            return None
        return linen_call(new, op.model), flat(made)

    return list(config_numbers(own)), variant


def _zeros(args: PyTree) -> PyTree:
    def zeros(leaf: object) -> object:
        return jax.numpy.zeros(leaf.shape, leaf.dtype) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf

    return jax.tree.map(zeros, args)


def _nnx_variants(model: nnx.Module, op: ImportedOp) -> tuple[list[ConfigNumber], _Variant | None]:
    arguments = nnx_arguments(model)
    if arguments is None:
        return [], None

    def variant(changes: NewNumbers) -> _Made | None:
        made = built_like(model, reconfigured(arguments, changes))
        if made is None:
            return None
        kinds = dict(op.model.variables)
        shapes = {
            path: jax.ShapeDtypeStruct(shape, kinds[path].dtype)
            for path, shape in nnx_shapes(made).items()
            if path in kinds
        }
        return nnx_call(made, op.model), shapes

    original = variant({})
    if original is None or {path: s.shape for path, s in original[1].items()} != {
        path: s.shape for path, s in op.model.variables
    }:
        return [], None
    return list(config_numbers(arguments)), variant


def _equal_parts(base: Analysed, names: Mapping[int, str]) -> Iterator[Condition]:
    """What the code cuts into equal parts stays equal."""
    for frame in base.frame.every():
        for parts in _parts(frame):
            rows = [base.rows[part] for part in parts if part is not None]
            for row in rows[1:]:
                for condition in _same_length(rows[0], row, base, names):
                    yield condition.because("the code of the class makes equal parts of it")


def _parts(frame: Frame) -> Iterator[list[Dim]]:
    """For each value that is cut into parts of one size the neurons on each part."""
    slices: dict[tuple[object, int], list[Equation]] = {}
    for eqn in equations(frame.jaxpr):
        if eqn.primitive.name == "split" and len(set(eqn.params["sizes"])) == 1:
            yield [frame.read(var).dims[eqn.params["axis"]] for var in eqn.outvars]
        elif eqn.primitive.name == "slice" and not eqn.params["strides"] and isinstance(eqn.invars[0], jex.Var):
            sizes = zip(eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape, strict=True)
            cut = [d for d, (before, after) in enumerate(sizes) if before != after]
            if len(cut) == 1:
                slices.setdefault((eqn.invars[0], cut[0]), []).append(eqn)
    for (_, dim), eqns in slices.items():
        lengths = {eqn.outvars[0].aval.shape[dim] for eqn in eqns}
        if len(lengths) == 1 and len(eqns) > 1:
            yield [frame.read(eqn.outvars[0]).dims[dim] for eqn in eqns]


def _same_length(
    one: Sequence[int], other: Sequence[int], base: Analysed, names: Mapping[int, str]
) -> Iterator[Condition]:
    """Conditions with which two rows of runs are equally long; of products, factor by factor."""
    common = Counter(one) & Counter(other)
    left, right = (list((Counter(row) - common).elements()) for row in (one, other))
    products = base.ties.products
    if len(left) == len(right) == 1 and left[0] in products and right[0] in products:
        for a, b in zip(products[left[0]], products[right[0]], strict=False):
            yield from _same_length(a, b, base, names)
    elif (left or right) and not any(run in products for run in (*left, *right)):
        sums = [sum((size(names[run]) for run in row), Size(())) for row in (left, right)]
        yield sums[0] == sums[1]
