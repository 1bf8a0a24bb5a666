"""A linen module with the new sizes."""

from __future__ import annotations

from typing import Any

import flax.linen as nn

from naivenas_jax.trace.back.candidates import Attempt, Picked
from naivenas_jax.trace.back.compare import Call
from naivenas_jax.trace.back.config_numbers import written
from naivenas_jax.trace.back.linen.linen_search import Adapting, Numbers
from naivenas_jax.trace.back.linen.resized_module import plain, with_numbers
from naivenas_jax.trace.back.size_changes import Changed
from naivenas_jax.trace.model.traced_model import TracedModel


def call_of(module: nn.Module, model: TracedModel) -> Call:
    """The module, called as it was when it was imported."""

    def call(variables: Any, arrays: Any) -> Any:
        return module.apply(variables, *model.arguments.join(arrays), **model.defaults)

    return call


def attempt(
    module: nn.Module, model: TracedModel, changed: Changed, variables: Any, arrays: Any, picked: Picked
) -> Attempt:
    """Search the numbers of the module, and of the modules inside it as far as that is not enough."""
    own, given = plain(module)
    adapting = Adapting(changed, picked, {place: dict(changes) for place, changes in given.items()})
    kwargs = dict(model.defaults)
    error = None
    try:
        adapting.run(own, variables, model.arguments.join(arrays), kwargs)
    except Exception as raised:  # whatever the user's code raises at the new sizes; it becomes the reason
        error = raised
    found = adapting.found
    models = () if error else (with_numbers(own, found), with_numbers(own, found, lift=False))
    return Attempt(models, error, _open(adapting), _said(found))


def _open(adapting: Adapting) -> dict[str, int]:
    """Each class may take another set of numbers that fits, or none, in favour of the modules inside it."""
    return {kind: count + 1 for kind, count in adapting.fitting.items() if count}


def _said(found: Numbers) -> str:
    return ", ".join(
        "/".join((*place, written(route))) + f" = {value}"
        for place, changes in found.items()
        for route, value in changes.items()
    )
