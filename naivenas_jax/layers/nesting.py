"""Rules of layers that hold other layers: the rule of a part, seen from the whole, and several parts together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TypeVar

from naivenas_jax.errors import GraphError
from naivenas_jax.graph.op import keywords_of
from naivenas_jax.graph.vertices.expression import renamed
from naivenas_jax.layers.rule import LayerRule, Reasons, VariableKey, reasons, variable_path
from naivenas_jax.paths import Path

KeyT = TypeVar("KeyT")
ValueT = TypeVar("ValueT")


def within(name: str, rule: LayerRule, attribute: str = "", **axes: str) -> LayerRule:
    """The rule of a submodule as the layer that holds it under ``name`` sees it.

    Args:
      name: the attribute that the submodule is, and the name of its variables.
      rule: the rule of the submodule.
      attribute: the attribute that holds the submodule, where it has another name than the submodule's variables.
      **axes: the names of the submodule's axes in the layer, where they differ; ``in_`` stands for ``in``.

    Raises:
      GraphError: if the rule has functions of sizes, ``resize`` or ``constraints``, which know the submodule's own
        names of axes only.

    >>> dense = LayerRule(leaves={"params/kernel": "in out"}, sizes={"features": "out"})
    >>> part = within("up", dense, in_="hidden")
    >>> part.leaves, part.sizes
    ({('params', 'up', 'kernel'): 'hidden out'}, {'up.features': 'out'})
    """
    if rule.resize is not None or rule.constraints is not None:
        raise GraphError(
            f"The layer under {name!r} has a resize rule or conditions of its own, which cannot be seen from outside. "
            "Make it a vertex of its own."
        )
    names = {"in" if axis == "in_" else axis: new for axis, new in axes.items()}
    names |= {"in0": names["in"]} if "in" in names else {}
    held_as = attribute or name

    def below(mapping: Mapping[VariableKey, ValueT]) -> dict[VariableKey, ValueT]:
        return {_below(name, key): value for key, value in mapping.items()}

    def reasoned(given: Reasons, speaks_of: tuple[str, ...]) -> dict[str, str]:
        return {names.get(axis, axis): f"{name}: {reason}" for axis, reason in reasons(given, speaks_of).items()}

    return replace(
        rule,
        leaves={path: _pattern(text, names) for path, text in below(rule.leaves).items()},
        sizes={f"{held_as}.{key}": renamed(axis, names) for key, axis in rule.sizes.items()},
        inner={names.get(axis, axis): size for axis, size in rule.inner.items()},
        composed={names.get(axis, axis): renamed(text, names) for axis, text in rule.composed.items()},
        shapes={f"{held_as}.{key}": _below(name, leaf) for key, leaf in rule.shapes.items()},
        new=below(rule.new),
        initialisers=below(rule.initialisers),
        rescaled={path: names.get(axis, axis) for path, axis in below(rule.rescaled).items()},
        identity=None,
        indexed=False,
        coupled=reasoned(rule.coupled, ("in0",)),
        fixed=reasoned(rule.fixed, ("in0", "out")),
    )


def joined_rules(*parts: LayerRule) -> LayerRule:
    """One rule with the variables and axes of all parts. Of how the whole is called the parts say nothing."""
    return LayerRule(
        leaves=_joined(part.leaves for part in parts),
        sizes=_joined(part.sizes for part in parts),
        inner=_joined(part.inner for part in parts),
        composed=_joined(part.composed for part in parts),
        shapes=_joined(part.shapes for part in parts),
        new=_joined(part.new for part in parts),
        initialisers=_joined(part.initialisers for part in parts),
        rescaled=_joined(part.rescaled for part in parts),
        coupled=_joined(reasons(part.coupled, ("in0",)) for part in parts),
        fixed=_joined(reasons(part.fixed, ("in0", "out")) for part in parts),
    )


def _joined(mappings: Iterable[Mapping[KeyT, ValueT]]) -> dict[KeyT, ValueT]:
    return {key: value for mapping in mappings for key, value in mapping.items()}


def keywords_understood(layer: object, rule: LayerRule) -> frozenset[str] | None:
    """The keyword arguments that a layer understands; None: any."""
    return keywords_of(type(layer).__call__) if rule.keywords is None else rule.keywords


def train_keywords(layer: object, rule: LayerRule) -> Callable[[bool], Mapping[str, object]] | None:
    """The keyword arguments that ``train`` means for a layer inside another one; attributes that are set win."""
    train = rule.train
    if train is None:
        return None
    return lambda on: {key: value for key, value in train(on).items() if getattr(layer, key, None) is None}


def _below(name: str, key: VariableKey) -> Path:
    path = variable_path(key)
    return (path[0], name, *path[1:])


def _pattern(text: str, names: Mapping[str, str]) -> str:
    return " ".join(("<" * token.startswith("<")) + renamed(token.removeprefix("<"), names) for token in text.split())
