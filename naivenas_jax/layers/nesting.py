"""Rules of layers that hold other layers: the rule of a part, seen from the whole, and several parts together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from naivenas_jax.errors import GraphError
from naivenas_jax.graph.op import keywords_of
from naivenas_jax.graph.vertices.expression import renamed
from naivenas_jax.layers.rule import LayerRule, by_path, reasons
from naivenas_jax.paths import Path


def within(name: str, rule: LayerRule, attribute: str = "", **axes: str) -> LayerRule:
    """The rule of a submodule as the layer that holds it under ``name`` sees it.

    Args:
      name: the attribute that the submodule is, and the name of its variables.
      rule: its rule.
      attribute: the attribute that the submodule is, where it has another name than its variables.
      **axes: what its axes are in the layer, where they have another name there; ``in_`` stands for ``in``.

    Raises:
      GraphError: if the rule has a function of sizes, which knows no other names.

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

    def placed(mapping: Mapping[Any, Any]) -> dict[Any, Any]:
        return {_below(name, path): value for path, value in by_path(mapping).items()}

    def reasoned(given: str | Mapping[str, str] | None, speaks_of: tuple[str, ...]) -> dict[str, str]:
        return {names.get(axis, axis): f"{name}: {reason}" for axis, reason in reasons(given, speaks_of).items()}

    return replace(
        rule,
        leaves={path: _pattern(text, names) for path, text in placed(rule.leaves).items()},
        sizes={f"{attribute or name}.{key}": renamed(axis, names) for key, axis in rule.sizes.items()},
        inner={names.get(axis, axis): size for axis, size in rule.inner.items()},
        composed={names.get(axis, axis): renamed(text, names) for axis, text in rule.composed.items()},
        shapes={f"{attribute or name}.{key}": _below(name, leaf) for key, leaf in rule.shapes.items()},
        new=placed(rule.new),
        initialisers=placed(rule.initialisers),
        rescaled={path: names.get(axis, axis) for path, axis in placed(rule.rescaled).items()},
        identity=None,
        coupled=reasoned(rule.coupled, ("in0",)),
        fixed=reasoned(rule.fixed, ("in0", "out")),
    )


def together(*parts: LayerRule, **fields: Any) -> LayerRule:
    """All parts in one rule; ``fields`` are those of the whole."""
    joined: dict[str, Any] = {}
    for name in _JOINED:
        joined[name] = {key: value for part in parts for key, value in getattr(part, name).items()}
    return LayerRule(**{**joined, **fields})


def understood(layer: Any, rule: LayerRule) -> frozenset[str] | None:
    """The keyword arguments that a layer understands."""
    return keywords_of(type(layer).__call__) if rule.keywords is None else rule.keywords


def translated(layer: Any, rule: LayerRule) -> Callable[[bool], Mapping[str, Any]] | None:
    """What ``train`` means for a layer inside another one; its attributes win."""
    train = rule.train
    if train is None:
        return None
    return lambda on: {key: value for key, value in train(on).items() if getattr(layer, key, None) is None}


#: Fields that are mappings in every rule made by `within`.
_JOINED = ("leaves", "sizes", "inner", "composed", "shapes", "new", "initialisers", "rescaled", "coupled", "fixed")


def _below(name: str, key: str | Path) -> Path:
    (path,) = by_path({key: None})
    return (path[0], name, *path[1:])


def _pattern(text: str, names: Mapping[str, str]) -> str:
    return " ".join(("<" * token.startswith("<")) + renamed(token.removeprefix("<"), names) for token in text.split())
