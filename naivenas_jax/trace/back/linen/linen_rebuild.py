"""A linen module with the new sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import flax.linen as nn

from naivenas_jax.paths import path_text
from naivenas_jax.trace.back.candidates import MakeAttempt, OutOfTimeError, Picked, RebuildAttempt
from naivenas_jax.trace.back.compare import ModelCall
from naivenas_jax.trace.back.linen.linen_search import LinenSearch, NumbersByModule, SearchMemory, held
from naivenas_jax.trace.back.linen.resized_module import resized_module, without_resizing
from naivenas_jax.trace.back.numbers.changed_sizes import ChangedSizes, ModulePath
from naivenas_jax.trace.back.numbers.config_numbers import NewNumbers, config_text
from naivenas_jax.trace.model.traced_model import TracedModel
from naivenas_jax.trace.program.module_names import linen_marks
from naivenas_jax.typing import Array, PyTree, Shape, Variables


def linen_call(module: nn.Module, model: TracedModel) -> ModelCall:
    """The module as a function, called as it was when it was imported."""

    def call(variables: Variables, arrays: Sequence[Array]) -> PyTree:
        with linen_marks():
            made = module.apply(variables, *model.arguments.join(arrays), **_keywords(model))
        return made[0] if model.writes else made

    return call


def _keywords(model: TracedModel) -> dict[str, PyTree]:
    """The keyword arguments of ``module.apply`` at the import."""
    rngs, mutable = {"rngs": model.keys} if model.streams else {}, {"mutable": list(model.writes) or False}
    return {**model.defaults, **rngs, **mutable}


def linen_attempts(
    module: nn.Module,
    model: TracedModel,
    inputs: Sequence[Shape],
    changed: ChangedSizes,
    variables: Variables,
    check_time: Callable[[], None],
) -> MakeAttempt[nn.Module]:
    """A function that searches the numbers of a module, and of the modules inside it as far as its own are not enough.

    Args:
      module: the module that was imported.
      model: what it was imported as.
      inputs: the present shapes of its inputs, which a request may have changed.
      changed: the sizes that changed.
      variables: the new variables.
      check_time: raises `OutOfTimeError` if there is no time left.
    """
    own, given = without_resizing(module)
    memory = SearchMemory()

    def attempt(picked: Picked) -> RebuildAttempt[nn.Module]:
        found: dict[ModulePath, NewNumbers] = {place: dict(changes) for place, changes in given.items()}
        search = LinenSearch(changed, picked, memory, check_time, found)
        error: Exception | None = None
        try:
            search.run(own, variables, model.arguments.join(inputs), _keywords(model))
        except OutOfTimeError:
            raise
        except Exception as raised:  # whatever the user's code raises at the new sizes; it becomes the reason
            error = raised
        decisions = [each for each in search.decisions.values() if each.ways > 1]
        lifts = (True, False) if any(held(own)) else (True,)  # numbers of modules in fields go there, or are overridden
        models = () if error else tuple(resized_module(own, search.found, lift=lift) for lift in lifts)
        return RebuildAttempt(models, error, decisions, _said(search.found))

    return attempt


def _said(found: NumbersByModule) -> str:
    return ", ".join(
        path_text((*place, config_text(path))) + f" = {value}"
        for place, changes in found.items()
        for path, value in changes.items()
    )
