"""An nnx model with the new sizes.

The arrays are put in, then the numbers among the attributes are brought in line with them. Where a module can be built
again from its own attributes, as the layers of Flax can, its constructor says which numbers go with which shapes.
Elsewhere a number is taken for the size that it was equal to, and is right if the model then computes what it should.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias, TypeVar

import jax
import numpy as np
from flax import nnx

from naivenas_jax.layers.ops.nnx_value import collection_of
from naivenas_jax.paths import Path, path_text
from naivenas_jax.trace.back.candidates import Decision, MakeAttempt, Picked, RebuildAttempt
from naivenas_jax.trace.back.compare import ModelCall
from naivenas_jax.trace.back.numbers.changed_sizes import ChangedSizes, ModulePath, possible_values
from naivenas_jax.trace.back.numbers.config_numbers import (
    ConfigNumber,
    ConfigPath,
    NewNumbers,
    config_numbers,
    config_text,
    reconfigured,
)
from naivenas_jax.trace.back.numbers.config_search import Sizes, search_numbers, sizes_of
from naivenas_jax.trace.model.nnx_model import NnxModel, copied_leaf
from naivenas_jax.trace.model.traced_model import TracedModel
from naivenas_jax.transfer.variables import flat
from naivenas_jax.typing import Array, PyTree, Variables

T = TypeVar("T")
#: Several sets of numbers, each by the path of the module that has them.
_Fits: TypeAlias = list[dict[ModulePath, NewNumbers]]
#: Shapes of variables, by path.
_Shapes: TypeAlias = Mapping[Path, tuple[int, ...]]


def nnx_call(module: nnx.Module, model: TracedModel) -> ModelCall:
    """The model as a function, called as it was when it was imported."""
    own, _ = NnxModel.of(module)

    def call(variables: Variables, arrays: Sequence[Array]) -> PyTree:
        return own(variables, model.arguments.join(arrays), model.keys, None, model.defaults)[0]

    return call


def nnx_shapes(module: nnx.Module) -> _Shapes:
    """The shapes of its variables, by path."""
    return {path: tuple(np.shape(array)) for path, array in NnxModel.of(module)[1].items()}


def nnx_attempts(
    module: nnx.Module, changed: ChangedSizes, variables: Variables, check_time: Callable[[], None]
) -> MakeAttempt[nnx.Module]:
    """A function that makes copies of a model with the new arrays and numbers.

    Args:
      module: the model that was imported.
      changed: the sizes that changed.
      variables: the new variables.
      check_time: raises `OutOfTimeError` if there is no time left.
    """
    fits: dict[ModulePath, _Fits] = {}

    def attempt(picked: Picked) -> RebuildAttempt[nnx.Module]:
        new = with_arrays(module, variables)
        nodes = {place: node for place, node in nodes_of(new) if changed.under(place)}
        settled: set[ModulePath] = set()
        decisions: list[Decision] = []
        said: list[str] = []

        def pick(place: ModulePath, kind: str, options: Sequence[T]) -> T:
            decisions.append(Decision(path_text(place), kind, len(options)))
            return options[decisions[-1].way(picked)]

        for place, node in nodes.items():
            if any(place[:i] in settled for i in range(len(place) + 1)):
                continue
            kind = type(node).__name__
            if place not in fits:
                check_time()
                fits[place] = built_anew(node, place, changed, check_time)
            if fits[place]:
                settled.add(place)
                for inner, changes in pick(place, kind, fits[place]).items():
                    said += set_numbers(nodes.get((*place, *inner)) or _at(node, inner), (*place, *inner), changes)
                continue
            values = {
                n: pick((*place, _attribute(n.path)), f"{kind}.{config_text(n.path)}", likely)
                for n in _numbers(node)
                if (likely := _likely(n, place, changed))
            }
            said += set_numbers(node, place, {n.path: value for n, value in values.items() if value != n.value})
        return RebuildAttempt((new,), None, [each for each in decisions if each.ways > 1], ", ".join(said))

    return attempt


def with_arrays(module: nnx.Module, variables: Variables) -> nnx.Module:
    """A copy with these arrays; everything else as it is."""
    places = NnxModel.of(module)[0].places
    arrays = {places[path]: array for path, array in flat(variables).items()}
    graphdef, state = nnx.split(module)
    leaves = [
        (place, leaf.replace(arrays[place]) if place in arrays else copied_leaf(leaf))
        for place, leaf in nnx.to_flat_state(state)
    ]
    return nnx.merge(graphdef, nnx.from_flat_state(leaves))


def nodes_of(module: nnx.Pytree) -> list[tuple[ModulePath, nnx.Pytree]]:
    """All modules and other nodes of a model, the outermost first."""
    found = [(tuple(map(str, path)), node) for path, node in nnx.iter_graph(module) if isinstance(node, nnx.Pytree)]
    return sorted(found, key=lambda pair: len(pair[0]))


def _at(node: nnx.Pytree, place: ModulePath) -> nnx.Pytree:
    return dict(nodes_of(node))[place]


def _numbers(node: nnx.Pytree) -> Iterator[ConfigNumber]:
    """The numbers among the attributes of one module, and in the values that these hold."""
    own = {name: value for name, value in vars(node).items() if not name.startswith("_pytree")}
    return (number for number in config_numbers(own) if number.value is not None)


def set_numbers(node: nnx.Pytree, place: ModulePath, changes: NewNumbers) -> list[str]:
    """Change attributes; says what was changed."""
    for name in dict.fromkeys(str(path[0].key) for path in changes):
        inner = {path[1:]: value for path, value in changes.items() if path[0].key == name}
        setattr(node, name, reconfigured(getattr(node, name), inner))
    return [f"{path_text((*place, _attribute(path)))} = {value}" for path, value in changes.items()]


def _attribute(path: ConfigPath) -> str:
    return str(path[0].key) + "".join(map(str, path[1:]))


def _likely(number: ConfigNumber, place: ModulePath, changed: ChangedSizes) -> list[int | float]:
    """The values that a number may have now, the likeliest first: the size that it was, as it is, in proportion."""
    value = number.value
    if value is None:
        return []
    exact: list[int | float] = [change.new for change in changed.inside(place) if change.old == value]
    rest = [option for option in possible_values(value, changed.near(place)) if option not in exact]
    if value in changed.kept(place):  # something of this size did not change
        return [value, *exact, *rest]
    return [*exact, value, *rest]


def built_anew(node: nnx.Pytree, place: ModulePath, changed: ChangedSizes, check_time: Callable[[], None]) -> _Fits:
    """The numbers of a module and of the modules inside it that its constructor changes to make the new shapes."""
    arguments = nnx_arguments(node)
    if arguments is None:
        return []
    shapes = changed.shapes_in(place)
    before, after = ({path: pair[i] for path, pair in shapes.items()} for i in range(2))
    original = _built(type(node), arguments)
    if original is None or _state_shapes(original) != before:
        return []

    def measure(changes: NewNumbers) -> Sizes | None:
        check_time()
        made = _built(type(node), reconfigured(arguments, changes))
        found = None if made is None else _state_shapes(made)
        return None if found is None or found.keys() != after.keys() else sizes_of(found)

    near = changed.near(place)
    choices = [(n.path, possible_values(n.value, near)) for n in config_numbers(arguments)]
    usable = [choice for choice in choices if choice[1]]
    fits = search_numbers(measure, sizes_of(after), lambda changed, sizes: usable, _MOST_FITS).fits
    built = [_built(type(node), reconfigured(arguments, changes)) for changes in fits]
    return [differences(original, made, node) for made in built if made is not None]


#: So many sets of arguments that fit are told apart by what the model computes.
_MOST_FITS = 4


def nnx_arguments(node: nnx.Pytree) -> dict[str, object] | None:
    """The arguments that a module could have been built with, as far as it keeps them; None: it does not."""
    found: dict[str, object] = {}
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


def _built(kind: Callable[..., nnx.Pytree], arguments: Mapping[str, object]) -> nnx.Pytree | None:
    """A module built with these arguments, with shapes in place of arrays; None: it cannot be."""
    needs_rngs = "rngs" in inspect.signature(kind.__init__).parameters
    try:
        return nnx.eval_shape(lambda: kind(**arguments, **({"rngs": nnx.Rngs(0)} if needs_rngs else {})))
    except Exception:  # whatever the constructor raises: these are not the arguments
        return None


def built_like(model: nnx.Module, arguments: Mapping[str, object]) -> nnx.Module | None:
    """A model of the same class built with these arguments, with shapes in place of arrays; None: it cannot be."""
    made = _built(type(model), arguments)
    return made if isinstance(made, nnx.Module) else None


def variable_shapes(module: nnx.Pytree) -> _Shapes:
    """The shapes of the variables of a module by path, which begins with the collection; keys are left out."""
    return {
        (collection_of(type(leaf)), *map(str, place)): tuple(np.shape(leaf.get_raw_value()))
        for place, leaf in nnx.to_flat_state(nnx.state(module))
        if isinstance(leaf, nnx.Variable) and not isinstance(leaf, nnx.RngState)
    }


def _state_shapes(module: nnx.Pytree) -> _Shapes:
    """The same without collections."""
    return {path[1:]: shape for path, shape in variable_shapes(module).items()}


def differences(original: nnx.Pytree, made: nnx.Pytree, node: nnx.Pytree) -> dict[ModulePath, NewNumbers]:
    """The numbers that differ between two builds of a module, as far as ``node`` has the numbers of the first one."""
    found: dict[ModulePath, NewNumbers] = {}
    makes, own = dict(nodes_of(made)), dict(nodes_of(node))
    for place, old in nodes_of(original):
        if place in makes and place in own:
            now = {n.path: n.value for n in _numbers(makes[place])}
            here = {n.path: n.value for n in _numbers(own[place])}
            changes = {
                n.path: value
                for n in _numbers(old)
                if (value := now.get(n.path)) is not None and value != n.value and here.get(n.path) == n.value
            }
            if changes:
                found[place] = changes
    return found
