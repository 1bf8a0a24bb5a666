"""From the new variables to the numbers of the modules inside a linen module, module by module, the outermost first.

The model runs on shapes, with the new variables. When a module is called whose variables changed, its own numbers are
searched until its initialiser makes the new shapes. If none make all of them, it takes those that make most, and the
modules inside it are searched when they are called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from naivenas_jax.trace.back.config_numbers import Changes, Number, Route, numbers, parts, replaced
from naivenas_jax.trace.back.config_search import Found, Measure, search
from naivenas_jax.trace.back.size_changes import Changed, options
from naivenas_jax.transfer.variables import flat

Place = tuple[str, ...]
#: For each module, by its path, the numbers of it that change.
Numbers = Mapping[Place, Changes]


class _AgainError(Exception):
    """The model has to be run anew, since a module had been set up before its numbers were found."""


@dataclass
class Adapting:
    """One run of a module in which the modules inside are given the new sizes.

    Attributes:
      changed: the sizes that changed.
      picked: for each class of modules which of the sets of numbers that fit to take, if not the first.
      found: the numbers that change, by path.
      fitting: how many sets there were to pick from, by class, outermost first.
    """

    changed: Changed
    picked: Mapping[str, int]
    found: dict[Place, Changes] = field(default_factory=dict)
    fitting: dict[str, int] = field(default_factory=dict)
    _settled: set[Place] = field(default_factory=set)
    _seen: set[tuple[Place, bool]] = field(default_factory=set)
    _searching: bool = False

    def run(self, module: nn.Module, variables: Any, args: Any, kwargs: Any) -> None:
        """Fill in `found`; raises what the model raises if it cannot be run with these variables."""
        arrays, call = _abstract(args, kwargs)
        while True:
            try:
                with nn.intercept_methods(self._adapt):
                    jax.eval_shape(lambda v, a: call(a, lambda *x, **k: module.apply(v, *x, **k)), variables, arrays)
                return
            except _AgainError:
                continue

    def _adapt(self, next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        if self._searching or module.scope is None:
            return next_fun(*args, **kwargs)
        place, in_setup = tuple(module.path), context.method_name == "setup"
        give(module, lambda at: self.found.get(at, {}))
        if self._is_open(place, in_setup):
            self._seen.add((place, in_setup))
            with self._search():
                found = self._numbers(module, context.method_name, args, kwargs)
            self._take(module, place, found, in_setup)
        return next_fun(*args, **kwargs)

    def _is_open(self, place: Place, in_setup: bool) -> bool:
        settled = any(place[:i] in self._settled for i in range(len(place) + 1))
        return not settled and (place, in_setup) not in self._seen and self.changed.under(place)

    def _take(self, module: nn.Module, place: Place, found: Found, in_setup: bool) -> None:
        """Give a module its numbers. The nearest may change what was called before it: a cell makes its own carry."""
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
            raise _AgainError
        put(module, changes)

    def _numbers(self, module: nn.Module, method: str, args: Any, kwargs: Any) -> Found:
        """The numbers of one module that have to change."""
        place = tuple(module.path)
        actual = {path: np.shape(array) for path, array in flat(module.variables).items()}
        free = module.clone(parent=None, _deep_clone=True, _reset_names=True, name=None)
        arrays, call = _abstract(args, kwargs)

        def wrong(changes: Changes) -> int | None:
            shapes = _shapes(replaced(free, changes), method, arrays, call)
            return None if shapes is None else _wrong(shapes, actual, method == "setup")

        if method == "setup" and not any(len(path) == 2 for path in actual):
            return Found([], {})
        near = self.changed.near(place)
        choices = [(n.route, options(n.value, near)) for n in numbers(free)]
        found = search(wrong, [choice for choice in choices if choice[1]], _MOST)
        return found if found.fits or found.nearest else Found([], self._guess(place, list(numbers(free)), wrong))

    def _guess(self, place: Place, own: Sequence[Number], wrong: Measure) -> Changes:
        """A number that is a former size of this module, where no call can tell: one before it made its arguments."""
        now = {change.old: change.new for change in reversed(self.changed.inside(place))}
        guesses = ({n.route: now[n.value]} for n in own if n.value in now)  # type: ignore[index]
        return next((changes for changes in guesses if wrong(changes) is None), {})

    @contextmanager
    def _search(self) -> Any:
        self._searching = True
        try:
            yield
        finally:
            self._searching = False


def give(module: nn.Module, of: Callable[[Place], Changes]) -> None:
    """Set the numbers of a module that is about to run, and of those in its fields, which it may ask for theirs."""
    for inner in (module, *(child for _, _, child in held(module))):
        if inner.scope is not None:
            put(inner, of(tuple(inner.path)))


def held(module: nn.Module) -> Iterator[tuple[str, Route, nn.Module]]:
    """Modules in the fields of a module: the name that each will have, where it is, and itself."""

    def walk(value: Any, route: Route, name: str) -> Iterator[tuple[str, Route, nn.Module]]:
        if isinstance(value, nn.Module):
            yield value.name or name, route, value
        elif isinstance(value, tuple | list | Mapping):
            for step, child in parts(value):
                yield from walk(child, (*route, step), f"{name}_{step.key}")

    for step, value in parts(module):
        yield from walk(value, (step,), str(step.key))


def put(module: nn.Module, changes: Changes) -> None:
    """Set numbers of a module while it runs; this object lives no longer than the run."""
    for name in {route[0].key for route in changes}:
        inner = {route[1:]: value for route, value in changes.items() if route[0].key == name}
        object.__setattr__(module, name, replaced(getattr(module, name), inner))


#: So many sets of numbers that fit are told apart by what the model computes.
_MOST = 4


def _shapes(module: nn.Module, method: str, arrays: Any, call: Any) -> dict[tuple[str, ...], tuple[int, ...]] | None:
    """The shapes that a module initialises, None if it cannot be."""

    def init(keys: Any, given: Any) -> Any:
        if method == "setup":
            return module.init(keys, method=lambda bound: bound._try_setup())
        return call(given, lambda *x, **k: module.init(keys, *x, method=method, **k))

    keys = {"params": jax.random.key(0)}
    try:
        made = jax.eval_shape(init, keys, arrays)
    except Exception:  # whatever the user's code raises at these sizes: they are not the ones
        return None
    return {path: tuple(np.shape(array)) for path, array in flat(made).items()}


def _wrong(shapes: Mapping[Any, tuple[int, ...]], actual: Mapping[Any, tuple[int, ...]], own: bool) -> int:
    """The number of dimensions that are not what they should be; of the module's own variables, or of all."""
    wanted = {path: shape for path, shape in actual.items() if not own or path in shapes}
    count = 0
    for path, shape in wanted.items():
        made = shapes.get(path, ())
        count += sum(a != b for a, b in zip(made, shape, strict=False)) + abs(len(made) - len(shape))
    return count


def _abstract(args: Any, kwargs: Any) -> tuple[list[Any], Any]:
    """Shapes of the arrays among arguments, and a function that calls one with arrays in their place."""
    leaves, tree = jax.tree.flatten((args, dict(kwargs)))
    where = [i for i, leaf in enumerate(leaves) if isinstance(leaf, jax.Array | np.ndarray | jax.ShapeDtypeStruct)]

    def call(arrays: Any, fn: Any) -> Any:
        full = list(leaves)
        for i, array in zip(where, arrays, strict=True):
            full[i] = array
        own, named = jax.tree.unflatten(tree, full)
        return fn(*own, **named)

    return [jax.ShapeDtypeStruct(leaves[i].shape, leaves[i].dtype) for i in where], call
