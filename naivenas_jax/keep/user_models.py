"""The models of the user that the networks of a save were imported from: numbered on saving, given again on loading."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import flax.linen as nn
from flax import nnx

from naivenas_jax.checks import shown
from naivenas_jax.errors import SaveError
from naivenas_jax.trace.model.traced_model import ModelFunction

#: What each kind of model is called in messages.
_KINDS = {"linen": "a linen module", "nnx": "an nnx model", "function": "a function"}


@dataclass(frozen=True, eq=False)
class NumberedModels:
    """The models of the networks of a save, each once, in the order in which they are met.

    Attributes:
      identities: what each is equal by.
    """

    identities: list[object] = field(default_factory=list)

    def number(self, function: ModelFunction) -> int:
        """The number of a model, which it gets when it is first asked for."""
        own = function.identity
        for number, known in enumerate(self.identities):
            if _same(own, known):
                return number
        self.identities.append(own)
        return len(self.identities) - 1


def _same(model: object, other: object) -> bool:
    """Whether two models are one, or equal values."""
    try:
        return model is other or (hash(model) == hash(other) and model == other)
    except TypeError:  # a field has no hash, and perhaps no one answer to ==
        return False


@dataclass(frozen=True, eq=False)
class GivenModels:
    """The models that a user has given to ``load``.

    Attributes:
      models: by number.
      asked: the numbers of those that networks were imported from.
    """

    models: tuple[object, ...] = ()
    asked: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, model: object) -> GivenModels:
        """What was given: a model, several in a list or tuple, or None."""
        if isinstance(model, list | tuple):
            return cls(tuple(model))
        return cls(() if model is None else (model,))

    def take(self, data: Mapping[str, Any]) -> object:
        """The model that a network was imported from.

        Args:
          data: what is saved of it: its kind, its name, and its number; none where there was one model alone.

        Raises:
          SaveError: if it was not given, or is of another kind.
        """
        kind, name, number = str(data["kind"]), str(data["name"]), data.get("number", 0)
        if kind not in _KINDS or type(number) is not int or number < 0:
            raise SaveError(f"A network was imported from {kind!r:.40} number {number!r:.40}, which is unknown.")
        self.asked.add(number)
        if number >= len(self.models):
            raise SaveError(_missing(_KINDS[kind], name, number))
        given = self.models[number]
        found = "linen" if isinstance(given, nn.Module) else "nnx" if isinstance(given, nnx.Module) else None
        found = "function" if found is None and callable(given) else found
        if found != kind or isinstance(given, type):
            where = "model" if len(self.models) == 1 else f"model[{number}]"
            raise SaveError(f"The network was imported from {_KINDS[kind]}, {name:.200}; found {where}={shown(given)}.")
        return given

    def check_all_asked(self) -> None:
        """Raise if more models were given than the networks were imported from; one that none needs does no harm."""
        if len(self.models) > max(len(self.asked), 1):
            raise SaveError(
                f"The networks of the save were imported from {len(self.asked)} models; found model= with "
                f"{len(self.models)}."
            )


def _missing(kind: str, name: str, number: int) -> str:
    """What is said where a model is needed that was not given."""
    if number == 0:
        return (
            f"The network was imported from {kind}, {name:.200}, whose code is not saved. Give it again: "
            "nas.load(path, model=...), as it was at the import."
        )
    return (
        f"The networks of the save were imported from several models, whose code is not saved. Number {number} is "
        f"{kind}, {name:.200}. Give them again, in the order of their numbers: nas.load(path, model=[...]), each as it "
        "was at the import."
    )
