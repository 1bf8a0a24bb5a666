"""From the new variables to the numbers of the modules inside a linen module, module by module, the outermost first.

The model runs on shapes, with the new variables. When a module is called whose variables changed, its own numbers are
searched until its initialiser makes the new shapes. If no numbers make all of them, it takes the numbers that make
most, and the modules inside it are searched when they are called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

import flax.linen as nn
import jax
import numpy as np

from naivenas_jax.paths import Path
from naivenas_jax.trace.back.candidates import Picked
from naivenas_jax.trace.back.changed_sizes import ChangedSizes, ModulePath, possible_values
from naivenas_jax.trace.back.config_numbers import (
    ConfigNumber,
    ConfigPath,
    NewNumbers,
    config_numbers,
    held_values,
    reconfigured,
)
from naivenas_jax.trace.back.config_search import ConfigMatches, CountWrong, search_numbers
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


@dataclass
class LinenSearch:
    """Runs of a module in which the modules inside are given the new sizes.

    Attributes:
      changed: the sizes that changed.
      picked: for each class of modules the number of the set to take, among the sets of numbers that fit.
      found: the numbers that change, by module.
      fitting: by class, the number of sets there were to pick from, outermost first.
    """

    changed: ChangedSizes
    picked: Picked
    found: dict[ModulePath, NewNumbers] = field(default_factory=dict)
    fitting: dict[str, int] = field(default_factory=dict)
    _settled: set[ModulePath] = field(default_factory=set)
    _seen: set[tuple[ModulePath, bool]] = field(default_factory=set)
    _searching: bool = False

    def run(self, module: nn.Module, variables: Variables, args: Sequence[PyTree], kwargs: Keywords) -> None:
        """Fill in `found`; raises what the model raises if it cannot be run with these variables."""
        shapes, call = _abstract(args, kwargs)

        def apply(values: Variables, arrays: Sequence[Array]) -> PyTree:
            return call(arrays, lambda *own, **named: module.apply(values, *own, **named))

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
        if self._searching or module.scope is None:
            return call(*args, **kwargs)
        place, in_setup = tuple(module.path), context.method_name == "setup"
        give(module, lambda at: self.found.get(at, {}))
        if self._is_open(place, in_setup):
            self._seen.add((place, in_setup))
            with self._search():
                found = self._numbers(module, context.method_name, args, kwargs)
            self._take(module, place, found, in_setup)
        return call(*args, **kwargs)

    def _is_open(self, place: ModulePath, in_setup: bool) -> bool:
        """Whether the numbers of a module are still to be found."""
        settled = any(place[:i] in self._settled for i in range(len(place) + 1))
        return not settled and (place, in_setup) not in self._seen and self.changed.under(place)

    def _take(self, module: nn.Module, place: ModulePath, found: ConfigMatches, in_setup: bool) -> None:
        """Give a module its numbers. They may change what was called before it, as a cell makes its own carry."""
        kind = type(module).__name__
        self.fitting[kind] = max(self.fitting.get(kind, 0), len(found.fits) + bool(found.nearest))
        number = self.picked.get(kind, 0)
        fits = number < len(found.fits)
        changes = found.fits[number] if fits else found.nearest if number == len(found.fits) else {}
        if changes:
            self.found[place] = {**self.found.get(place, {}), **changes}
        if fits and not in_setup:
            self._settled.add(place)
        if changes and not in_setup and (not fits or type(module).setup is not nn.Module.setup):
            raise _RestartError
        put(module, changes)

    def _numbers(self, module: nn.Module, method: str, args: tuple[PyTree, ...], kwargs: Keywords) -> ConfigMatches:
        """The numbers of one module that have to change."""
        place = tuple(module.path)
        actual = {path: np.shape(array) for path, array in flat(module.variables).items()}
        free = module.clone(parent=None, _deep_clone=True, _reset_names=True, name=None)

        arrays, call = _abstract(args, kwargs)

        def count(changes: NewNumbers) -> int | None:
            shapes = _initialised(reconfigured(free, changes), method, arrays, call)
            return None if shapes is None else _wrong_dimensions(shapes, actual, method == "setup")

        if method == "setup" and not any(len(path) == 2 for path in actual):
            return ConfigMatches([], {})
        near, own = self.changed.near(place), list(config_numbers(free))
        choices = [(n.path, possible_values(n.value, near)) for n in own]
        found = search_numbers(count, [choice for choice in choices if choice[1]], _MOST_FITS)
        return found if found.fits or found.nearest else ConfigMatches([], self._guess(place, own, count))

    def _guess(self, place: ModulePath, own: Iterable[ConfigNumber], count: CountWrong) -> NewNumbers:
        """A number that was a size of this module, where calls cannot tell: the arguments still have the old size."""
        now: dict[int | float | None, int] = {c.old: c.new for c in reversed(self.changed.inside(place))}
        guesses = ({n.path: now[n.value]} for n in own if n.value in now)
        return next((changes for changes in guesses if count(changes) is None), {})

    @contextmanager
    def _search(self) -> Iterator[None]:
        """Within, modules that are called are left as they are."""
        self._searching = True
        try:
            yield
        finally:
            self._searching = False


def give(module: nn.Module, of: Callable[[ModulePath], NewNumbers]) -> None:
    """Set the numbers of a module that is about to run, and of the modules in its fields, which it may read."""
    for inner in (module, *(child for _, _, child in held(module))):
        if inner.scope is not None:
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


def _wrong_dimensions(shapes: _Shapes, actual: _Shapes, own: bool) -> int:
    """The number of dimensions that are not what they should be, of the module's own variables or of all."""
    wanted = {path: shape for path, shape in actual.items() if not own or path in shapes}
    count = 0
    for path, shape in wanted.items():
        made = shapes.get(path, ())
        count += sum(a != b for a, b in zip(made, shape, strict=False)) + abs(len(made) - len(shape))
    return count


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
