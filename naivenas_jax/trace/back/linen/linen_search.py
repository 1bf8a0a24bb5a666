"""From the new variables to the numbers of the modules inside a linen module, module by module, the outermost first.

The model runs on shapes, with the new variables. When a module is called whose variables changed, its own numbers are
searched until its initialiser makes the new shapes. If no numbers make all of them, it takes the numbers that make
most, and the modules inside it are searched when they are called.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import flax.linen as nn
import jax
import numpy as np

from naivenas_jax.graph.structure import arrays_in
from naivenas_jax.paths import Path, path_text
from naivenas_jax.trace.back.candidates import Decision, Picked
from naivenas_jax.trace.back.linen.shape_memo import ShapeMemo, call_key
from naivenas_jax.trace.back.numbers.changed_sizes import ChangedSize, ChangedSizes, ModulePath, possible_values
from naivenas_jax.trace.back.numbers.config_numbers import (
    ConfigNumber,
    ConfigPath,
    NewNumbers,
    config_numbers,
    held_values,
    reconfigured,
)
from naivenas_jax.trace.back.numbers.config_search import NumberOptions, Sizes, search_numbers, sizes_of
from naivenas_jax.trace.model.traced_model import Keywords
from naivenas_jax.transfer.variables import flat
from naivenas_jax.typing import Array, PyTree, Shape, Variables

#: For each module, by its path, its numbers that change.
NumbersByModule: TypeAlias = Mapping[ModulePath, NewNumbers]
#: ``call(arrays, fn)`` calls a function with arrays in the places of the arrays of some arguments.
_CallWith: TypeAlias = Callable[[Sequence[Array], Callable[..., PyTree]], PyTree]
#: Shapes of variables, by path.
_Shapes: TypeAlias = Mapping[Path, tuple[int, ...]]


class _RestartError(Exception):
    """The model has to be run anew, since a module had been set up before its numbers were found."""


class _Option(NamedTuple):
    """One way to choose the numbers of a module.

    Attributes:
      changes: the numbers.
      fits: whether all variables of the module then have the right shapes, so that no module inside need be changed.
    """

    changes: NewNumbers
    fits: bool


@dataclass(frozen=True, eq=False)
class SearchMemory:
    """What several runs of a model have in common.

    Attributes:
      shapes: the shapes that modules make.
      options: the ways to choose the numbers of a module, by how it is called.
    """

    shapes: ShapeMemo = field(default_factory=ShapeMemo)
    options: dict[Hashable, Sequence[_Option]] = field(default_factory=dict)


@dataclass
class LinenSearch:
    """Runs of a module in which the modules inside are given the new sizes.

    Attributes:
      changed: the sizes that changed.
      picked: which way to take, for decisions that have several.
      memory: what earlier runs have found.
      check_time: raises if there is no time left.
      found: the numbers that change, by module.
      decisions: the modules whose numbers can be chosen in several ways, by path.
    """

    changed: ChangedSizes
    picked: Picked
    memory: SearchMemory
    check_time: Callable[[], None]
    found: dict[ModulePath, NewNumbers] = field(default_factory=dict)
    decisions: dict[ModulePath, Decision] = field(default_factory=dict)
    _settled: set[ModulePath] = field(default_factory=set)
    _seen: set[tuple[ModulePath, bool]] = field(default_factory=set)
    _searching: bool = False

    def run(self, module: nn.Module, variables: Variables, args: Sequence[PyTree], kwargs: Keywords) -> None:
        """Fill in `found`; raises what the model raises if it cannot be run with these variables."""
        shapes, call = _abstract(args, kwargs)

        def apply(values: Variables, arrays: Sequence[Array]) -> PyTree:
            return arrays_in(call(arrays, lambda *own, **named: module.apply(values, *own, **named)))

        while True:
            try:
                with nn.intercept_methods(self._adapt):
                    jax.eval_shape(apply, variables, shapes)
                return
            except _RestartError:
                continue

    def _adapt(
        self,
        call: Callable[..., PyTree],
        args: tuple[PyTree, ...],
        kwargs: dict[str, PyTree],
        context: nn.module.InterceptorContext,
    ) -> PyTree:
        """Call a method of a module, after its numbers have been found (see ``flax.linen.intercept_methods``)."""
        module = context.module
        if self._searching or not runs(module):
            return call(*args, **kwargs)
        place, in_setup = tuple(module.path), context.method_name == "setup"
        give(module, lambda at: self.found.get(at, {}))
        if self._is_open(place, in_setup):
            self._seen.add((place, in_setup))
            with self._search():
                options = self._options(module, context.method_name, args, kwargs)
            self._take(module, place, options, in_setup)
        return call(*args, **kwargs)

    def _is_open(self, place: ModulePath, in_setup: bool) -> bool:
        """Whether the numbers of a module are still to be found."""
        settled = any(place[:i] in self._settled for i in range(len(place) + 1))
        return not settled and (place, in_setup) not in self._seen and self.changed.under(place)

    def _take(self, module: nn.Module, place: ModulePath, options: Sequence[_Option], in_setup: bool) -> None:
        """Give a module its numbers. They may change what was called before it, as a cell makes its own carry."""
        decision = Decision(path_text(place), type(module).__name__, len(options))
        self.decisions[place] = decision
        changes, fits = options[decision.way(self.picked)]
        if changes:
            self.found[place] = {**self.found.get(place, {}), **changes}
        if fits and not in_setup:
            self._settled.add(place)
        if changes and not in_setup and (not fits or type(module).setup is not nn.Module.setup):
            raise _RestartError
        put(module, changes)

    def _options(self, module: nn.Module, method: str, args: tuple[PyTree, ...], kwargs: Keywords) -> Sequence[_Option]:
        """The ways to choose the numbers of one module; the same for modules that are alike."""
        place = tuple(module.path)
        actual = {path: tuple(np.shape(array)) for path, array in flat(module.variables).items()}
        near = self.changed.near(place)
        called = call_key(module, args, kwargs)
        key = called and (called, method, tuple(actual.items()), tuple(near))
        if key is None or key not in self.memory.options:
            found = self._searched(module, method, args, kwargs, actual, near)
            if key is None:
                return found
            self.memory.options[key] = found
        return self.memory.options[key]

    def _searched(
        self,
        module: nn.Module,
        method: str,
        args: tuple[PyTree, ...],
        kwargs: Keywords,
        actual: _Shapes,
        near: Sequence[ChangedSize],
    ) -> Sequence[_Option]:
        """The ways to choose the numbers of one module, whose variables have the shapes ``actual``."""
        if method == "setup" and not any(len(path) == 2 for path in actual):
            return [_Option({}, False)]
        place = tuple(module.path)
        free = module.clone(parent=None, _deep_clone=True, _reset_names=True, name=None)
        arrays, call = _abstract(args, kwargs)

        def measure(changes: NewNumbers) -> Sizes | None:
            self.check_time()
            with nn.intercept_methods(self.memory.shapes.intercept):
                shapes = _initialised(reconfigured(free, changes), method, arrays, call)
            if shapes is None:
                return None
            return sizes_of({path: shape for path, shape in shapes.items() if path in actual})

        before = measure({})
        target = sizes_of(actual)
        if method == "setup" and before is not None:  # what is made in setup; the rest is made later
            target = {at: size for at, size in target.items() if at in before}
        own = list(config_numbers(free))

        def choices(changed: NewNumbers, sizes: Sizes | None) -> list[NumberOptions]:
            likely = [*_wanted(sizes, target), *near]
            every = [(n.path, possible_values(changed.get(n.path, n.value), likely)) for n in own]
            return [choice for choice in every if choice[1]]

        found = search_numbers(measure, target, choices, _MOST_FITS)
        natural = self._natural(place, own)
        guess = () if found.fits or found.nearest else [each for each in natural if measure(each) is None]
        loose = [*guess[:1], found.nearest, *natural, {}]
        options = [*(_Option(changes, True) for changes in found.fits), *(_Option(each, False) for each in loose)]
        return [each for i, each in enumerate(options) if each.changes not in [e.changes for e in options[:i]]]

    def _natural(self, place: ModulePath, own: Iterable[ConfigNumber]) -> Sequence[NewNumbers]:
        """Numbers that were a size of this module and become that size: all of them, then one after the other.

        It is what a person would try first, and right where the code of the model compares sizes: a block has a skip
        connection if its width is that of what it reads. Whatever else follows such a number and shall stay is
        given its size further inside.
        """
        now: dict[int | float | None, int] = {c.old: c.new for c in reversed(self.changed.inside(place))}
        every = {n.path: now[n.value] for n in own if n.value in now}
        single = [{path: value} for path, value in every.items()]
        return [every, *single][:_MOST_NATURAL]

    @contextmanager
    def _search(self) -> Iterator[None]:
        """Within, modules that are called are left as they are."""
        self._searching = True
        try:
            yield
        finally:
            self._searching = False


def runs(module: nn.Module) -> bool:
    """Whether a module is part of a model that runs; Flax also calls one alone, to check what its setup does."""
    return module.scope is not None and not isinstance(module.scope, nn.module.TestScope)


def give(module: nn.Module, of: Callable[[ModulePath], NewNumbers]) -> None:
    """Set the numbers of a module that is about to run, and of the modules in its fields, which it may read."""
    for inner in (module, *(child for _, _, child in held(module))):
        if runs(inner):
            put(inner, of(tuple(inner.path)))


def held(module: nn.Module) -> Iterator[tuple[str, ConfigPath, nn.Module]]:
    """Modules in the fields of a module: the name that each will have, where it is, and itself."""

    def walk(value: object, path: ConfigPath, name: str) -> Iterator[tuple[str, ConfigPath, nn.Module]]:
        if isinstance(value, nn.Module):
            yield value.name or name, path, value
        elif isinstance(value, tuple | list | Mapping):
            for step, child in held_values(value):
                yield from walk(child, (*path, step), f"{name}_{step.key}")

    for step, value in held_values(module):
        yield from walk(value, (step,), str(step.key))


def put(module: nn.Module, changes: NewNumbers) -> None:
    """Set numbers of a module while it runs; this object lives no longer than the run."""
    for name in {str(path[0].key) for path in changes}:
        inner = {path[1:]: value for path, value in changes.items() if path[0].key == name}
        object.__setattr__(module, name, reconfigured(getattr(module, name), inner))


#: So many sets of numbers that fit are told apart by what the model computes.
_MOST_FITS = 4
#: So many other sets, too, that do not fit by themselves.
_MOST_NATURAL = 4


def _initialised(module: nn.Module, method: str, arrays: Sequence[Shape], call: _CallWith) -> _Shapes | None:
    """The shapes that a module initialises when a method is called, None if it cannot be."""

    def init(keys: dict[str, jax.Array], given: Sequence[Array]) -> PyTree:
        if method == "setup":
            return module.init(keys, method=lambda bound: bound._try_setup())
        return call(given, lambda *own, **named: module.init(keys, *own, method=method, **named))

    keys = {"params": jax.random.key(0)}
    try:
        made = jax.eval_shape(init, keys, arrays)
    except Exception:  # whatever the user's code raises at these sizes: they are not the ones
        return None
    return {path: tuple(np.shape(array)) for path, array in flat(made).items()}


def _wanted(before: Sizes | None, target: Sizes) -> list[ChangedSize]:
    """What sizes are and what they have to be: the likeliest changes, also of numbers that changed already."""
    pairs = {} if before is None else {(before[at], size): None for at, size in target.items() if at in before}
    return [ChangedSize(old, new, "") for old, new in pairs if old != new]


def _abstract(args: Sequence[PyTree], kwargs: Keywords) -> tuple[list[Shape], _CallWith]:
    """The shapes of the arrays among arguments, and a function that calls another one with arrays in their places.

    The other arguments may be anything, also values that cannot be hashed.
    """
    leaves, tree = jax.tree.flatten((tuple(args), dict(kwargs)))
    where = [i for i, leaf in enumerate(leaves) if isinstance(leaf, jax.Array | np.ndarray | jax.ShapeDtypeStruct)]

    def call(arrays: Sequence[Array], fn: Callable[..., PyTree]) -> PyTree:
        full = list(leaves)
        for i, array in zip(where, arrays, strict=True):
            full[i] = array
        own, named = jax.tree.unflatten(tree, full)
        return fn(*own, **named)

    return [jax.ShapeDtypeStruct(leaves[i].shape, leaves[i].dtype) for i in where], call
