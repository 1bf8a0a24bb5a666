"""An nnx model with the new sizes.

The arrays are put in, then the numbers next to them are brought in line. Where a module can be built again from its own
attributes, as the layers of Flax can, its constructor says which numbers go with which shapes. Elsewhere a number is
taken for the size that it was equal to, and what the model then computes decides.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from naivenas_jax.trace.back.candidates import Attempt, Picked
from naivenas_jax.trace.back.compare import Call
from naivenas_jax.trace.back.config_numbers import Changes, Number, Route, numbers, replaced, written
from naivenas_jax.trace.back.config_search import search
from naivenas_jax.trace.back.size_changes import Changed, options
from naivenas_jax.trace.model.nnx_model import NnxModel
from naivenas_jax.trace.model.traced_model import TracedModel
from naivenas_jax.transfer.variables import flat

Place = tuple[str, ...]


def call_of(module: nnx.Module, model: TracedModel) -> Call:
    """The model, called as it was when it was imported."""
    own = NnxModel.of(module)

    def call(variables: Any, arrays: Any) -> Any:
        return own.function(variables, model.arguments.join(arrays), {}, None, model.defaults)[0]

    return call


def shapes_of(module: nnx.Module) -> dict[Place, tuple[int, ...]]:
    """The shapes of its variables, by path."""
    return {path: tuple(np.shape(array)) for path, array in NnxModel.of(module).arrays.items()}


def attempt(module: nnx.Module, changed: Changed, variables: Any, picked: Picked) -> Attempt:
    """A copy with the new arrays and numbers."""
    new = _with_arrays(module, variables)
    nodes = {place: node for place, node in _nodes(new) if changed.under(place)}
    settled: set[Place] = set()
    ways: dict[str, int] = {}
    said: list[str] = []
    for place, node in nodes.items():
        if any(place[:i] in settled for i in range(len(place) + 1)):
            continue
        found = _built_anew(node, place, changed)
        kind = type(node).__name__
        if found:
            ways[kind] = max(ways.get(kind, 0), len(found))
            pick = found[min(picked.get(kind, 0), len(found) - 1)]
            settled.add(place)
            for inner, changes in pick.items():
                said += _set(nodes.get((*place, *inner)) or _at(node, inner), (*place, *inner), changes)
            continue
        changes = {}
        for number in _numbers(node):
            values = _likely(number, place, changed)
            name = f"{kind}.{written(number.route)}"
            ways[name] = max(ways.get(name, 0), len(values))
            value = values[min(picked.get(name, 0), len(values) - 1)]
            if value != number.value:
                changes[number.route] = value
        said += _set(node, place, changes)
    return Attempt((new,), None, {name: count for name, count in ways.items() if count > 1}, ", ".join(said))


def _with_arrays(module: nnx.Module, variables: Mapping[str, Any]) -> nnx.Module:
    """A copy with these arrays; everything else as it is."""
    places = NnxModel.of(module).places
    arrays = {places[path]: array for path, array in flat(variables).items()}
    graphdef, state = nnx.split(module)
    leaves = [
        (place, leaf.replace(arrays[place]) if place in arrays else _copied(leaf))
        for place, leaf in nnx.to_flat_state(state)
    ]
    return nnx.merge(graphdef, nnx.from_flat_state(leaves))


def _copied(leaf: Any) -> Any:
    return leaf.copy() if isinstance(leaf, nnx.Variable) else leaf


def _nodes(module: nnx.Module) -> list[tuple[Place, Any]]:
    """All modules and what else is part of the model, the outermost first."""
    found = [(tuple(map(str, path)), node) for path, node in nnx.iter_graph(module) if isinstance(node, nnx.Pytree)]
    return sorted(found, key=lambda pair: len(pair[0]))


def _at(node: Any, place: Place) -> Any:
    return dict(_nodes(node))[place]


def _numbers(node: Any) -> Iterator[Number]:
    """The numbers among the attributes of one module, and in what those hold."""
    own = {name: value for name, value in vars(node).items() if not name.startswith("_pytree")}
    return (number for number in numbers(own) if number.value is not None)


def _set(node: Any, place: Place, changes: Changes) -> list[str]:
    """Change attributes; says what was changed."""
    for name in dict.fromkeys(route[0].key for route in changes):
        inner = {route[1:]: value for route, value in changes.items() if route[0].key == name}
        setattr(node, name, replaced(getattr(node, name), inner))
    return [f"{'/'.join((*place, _attribute(route)))} = {value}" for route, value in changes.items()]


def _attribute(route: Route) -> str:
    return str(route[0].key) + "".join(map(str, route[1:]))


def _likely(number: Number, place: Place, changed: Changed) -> list[int | float]:
    """What a number may be now, the likeliest first: the size that it was, as it is, in proportion."""
    value: Any = number.value
    exact = [change.new for change in changed.inside(place) if change.old == value]
    rest = [option for option in options(value, changed.near(place)) if option not in exact]
    if value in changed.kept(place):  # something of this size did not change
        return [value, *exact, *rest]
    return [*exact, value, *rest]


def _built_anew(node: Any, place: Place, changed: Changed) -> list[dict[Place, Changes]]:
    """The numbers of a module and those inside it that its constructor changes when it makes the new shapes."""
    arguments = _arguments(node)
    if arguments is None:
        return []
    paths = [path for path in changed.before if path[1 : 1 + len(place)] == place]
    before = {path[1 + len(place) :]: changed.before[path] for path in paths}
    after = {path[1 + len(place) :]: changed.after[path] for path in paths}
    original = _built(type(node), arguments)
    if original is None or _shapes(original) != before:
        return []

    def wrong(changes: Changes) -> int | None:
        made = _built(type(node), replaced(arguments, changes))
        if made is None or (shapes := _shapes(made)).keys() != after.keys():
            return None
        return sum(a != b for path in after for a, b in zip(shapes[path], after[path], strict=False))

    near = changed.near(place)
    choices = [(n.route, options(n.value, near)) for n in numbers(arguments)]
    found = search(wrong, [choice for choice in choices if choice[1]], _MOST)
    return [_differences(original, _built(type(node), replaced(arguments, changes)), node) for changes in found.fits]


#: So many sets of arguments that fit are told apart by what the model computes.
_MOST = 4


def _arguments(node: Any) -> dict[str, Any] | None:
    """The arguments that a module could have been built with, as far as it keeps them; None: it does not."""
    found: dict[str, Any] = {}
    for name, parameter in list(inspect.signature(type(node).__init__).parameters.items())[1:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if name == "rngs":
            continue
        value = vars(node).get(name, parameter.default)
        if value is parameter.empty or isinstance(value, nnx.Pytree | nnx.Variable | jax.Array):
            return None
        found[name] = value
    return found


def _built(kind: Any, arguments: Mapping[str, Any]) -> Any | None:
    needs = "rngs" in inspect.signature(kind.__init__).parameters
    try:
        return nnx.eval_shape(lambda: kind(**arguments, **({"rngs": nnx.Rngs(0)} if needs else {})))
    except Exception:  # whatever the constructor raises: these are not the arguments
        return None


def _shapes(module: Any) -> dict[Place, tuple[int, ...]]:
    return {
        tuple(map(str, place)): tuple(np.shape(leaf.get_raw_value()))
        for place, leaf in nnx.to_flat_state(nnx.state(module))
        if isinstance(leaf, nnx.Variable) and not isinstance(leaf, nnx.RngState)
    }


def _differences(original: Any, made: Any, node: Any) -> dict[Place, Changes]:
    """Numbers that two builds of a module have different, as far as ``node`` has them as the first one does."""
    found: dict[Place, Changes] = {}
    makes, own = dict(_nodes(made)), dict(_nodes(node))
    for place, old in _nodes(original):
        if place in makes and place in own:
            now = {n.route: n.value for n in _numbers(makes[place])}
            here = {n.route: n.value for n in _numbers(own[place])}
            changes = {
                n.route: now[n.route]
                for n in _numbers(old)
                if now.get(n.route, n.value) != n.value and here.get(n.route) == n.value
            }
            if changes:
                found[place] = changes
    return found
