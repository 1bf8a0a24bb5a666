"""A linen module with the new sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import flax.linen as nn

from naivenas_jax.paths import path_text
from naivenas_jax.trace.back.candidates import Picked, RebuildAttempt
from naivenas_jax.trace.back.changed_sizes import ChangedSizes
from naivenas_jax.trace.back.compare import ModelCall
from naivenas_jax.trace.back.config_numbers import config_text
from naivenas_jax.trace.back.linen.linen_search import LinenSearch, NumbersByModule
from naivenas_jax.trace.back.linen.resized_module import resized_module, without_resizing
from naivenas_jax.trace.model.traced_model import TracedModel
from naivenas_jax.typing import Array, PyTree, Shape, Variables


def linen_call(module: nn.Module, model: TracedModel) -> ModelCall:
    """The module as a function, called as it was when it was imported."""

    def call(variables: Variables, arrays: Sequence[Array]) -> PyTree:
        return module.apply(variables, *model.arguments.join(arrays), **_keywords(model))

    return call


def _keywords(model: TracedModel) -> dict[str, PyTree]:
    """The keyword arguments of ``module.apply`` at the import."""
    return {**model.defaults, **({"rngs": model.keys} if model.streams else {})}


def linen_attempt(
    module: nn.Module,
    model: TracedModel,
    inputs: Sequence[Shape],
    changed: ChangedSizes,
    variables: Variables,
    picked: Picked,
) -> RebuildAttempt[nn.Module]:
    """Search the numbers of a module, and of the modules inside it as far as its own numbers are not enough.

    Args:
      module: the module that was imported.
      model: what it was imported as.
      inputs: the present shapes of its inputs, which a request may have changed.
      changed: the sizes that changed.
      variables: the new variables.
      picked: which of several sets of numbers to take, by class.
    """
    own, given = without_resizing(module)
    search = LinenSearch(changed, picked, {place: dict(changes) for place, changes in given.items()})
    try:
        search.run(own, variables, model.arguments.join(inputs), _keywords(model))
    except Exception as error:  # whatever the user's code raises at the new sizes; it becomes the reason
        return RebuildAttempt((), error, _open(search), _said(search.found))
    models = (resized_module(own, search.found), resized_module(own, search.found, lift=False))
    return RebuildAttempt(models, None, _open(search), _said(search.found))


def _open(search: LinenSearch) -> Mapping[str, int]:
    """The number of ways to decide, by class: a set of numbers that fits, or none, and the modules inside change."""
    return {kind: count + 1 for kind, count in search.fitting.items() if count}


def _said(found: NumbersByModule) -> str:
    return ", ".join(
        path_text((*place, config_text(path))) + f" = {value}"
        for place, changes in found.items()
        for path, value in changes.items()
    )
