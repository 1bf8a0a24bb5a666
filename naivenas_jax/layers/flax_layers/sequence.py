"""Layers and functions one after the other, as one layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import flax.linen as nn
from flax import nnx

from naivenas_jax.errors import GraphError
from naivenas_jax.graph.op import keywords_of
from naivenas_jax.graph.vertices.expression import names_in, size_of
from naivenas_jax.graph.vertices.independence_check import probe
from naivenas_jax.layers.attributes import attribute_of
from naivenas_jax.layers.describe import describes
from naivenas_jax.layers.nesting import joined_rules, keywords_understood, train_keywords, within
from naivenas_jax.layers.registry import rule_of
from naivenas_jax.layers.rule import LayerRule, port_name, reasons


@describes(nn.Sequential, nnx.Sequential)
def sequential(layer: nn.Sequential | nnx.Sequential, nin: tuple[int, ...]) -> LayerRule:
    """Each part reads what the part before it makes; the neurons between are an axis, ``layers_i`` for those of part i.

    Functions among the parts are tried on made-up numbers, as functions of `invariant_vertex` are.
    """
    parts = _checked(tuple(layer.layers))
    stages = list(_stages(parts, nin[0]))
    last = max((i for i, (rule, _) in enumerate(stages) if rule is not None and rule.absorbs), default=-1)
    axis, found = "in", list[LayerRule]()
    for i, (rule, size) in enumerate(stages):
        if rule is None:
            found.append(_function(parts[i], i, axis, size))
            continue
        if rule.indexed and axis != "in":
            raise GraphError(
                f"Part {i} of a Sequential ({type(parts[i]).__name__}) looks up words by their numbers, and reads the "
                f"values that part {axis.removeprefix('layers_')} makes. An embedding comes first."
            )
        out = "out" if i == last else f"layers_{i}"
        found.append(_part(layer, i, rule, axis, out))
        axis = out if rule.absorbs else axis
    first = stages[0][0]
    rule = joined_rules(*_compatible(found))
    words = next((i for i, (part, _) in enumerate(stages) if part is not None and part.indexed), None)
    if words:  # 0 is the first part
        reason = f"parts before layers_{words} compute numbers of words"
        rule = replace(rule, fixed={**reasons(rule.fixed, ("in0",)), "in0": reason})
    return replace(
        rule,
        keywords=keywords_of(parts[0]) if first is None else keywords_understood(parts[0], first),
        train=None if first is None else train_keywords(parts[0], first),
        example=max((part.example for part in found), key=len),
        positional=any(part.positional for part in found),
        indexed=words is not None,
    )


def _checked(parts: tuple[object, ...]) -> tuple[object, ...]:
    if not parts:
        raise GraphError("A Sequential without layers computes nothing that a vertex could.")
    layers = [part for part in parts if _is_layer(part)]
    if len({id(part) for part in layers}) < len(layers):
        raise GraphError("A Sequential that holds one layer twice shares its variables, which a rule cannot express.")
    return parts


def _is_layer(part: object) -> bool:
    return isinstance(part, nn.Module | nnx.Module)


def _stages(parts: tuple[object, ...], size: int) -> Iterator[tuple[LayerRule | None, int]]:
    """The rule of each part (None: a function), and how many neurons it reads."""
    for part in parts:
        if not _is_layer(part):
            yield None, size
            continue
        rule = rule_of(part, (size,))
        yield rule, size
        if rule.absorbs:
            size = _width(part, rule, size)


def _width(part: object, rule: LayerRule, nin: int) -> int:
    """How many neurons a part makes."""
    sizes: dict[str, Any] = {"in0": nin, **rule.inner}  # attributes hold what the user gave, checked later
    sizes |= {port_name(axis): attribute_of(part, key) for key, axis in rule.sizes.items()}
    width: int = size_of(rule.composed["out"], sizes) if "out" in rule.composed else sizes["out"]
    return width


def _part(layer: nn.Sequential | nnx.Sequential, i: int, rule: LayerRule, axis: str, out: str) -> LayerRule:
    """The rule of a part as the whole sees it."""
    own = {name for text in (*rule.sizes.values(), *rule.inner, *rule.composed) for name in names_in(text)}
    names = {name: f"layers_{i}_{name}" for name in own if name not in ("in0", "out")}
    if isinstance(layer, nn.Module):
        return within(f"layers_{i}", rule, f"layers.{i}", in_=axis, out=out, **names)
    return within("layers", within(str(i), rule, in_=axis, out=out, **names))


def _function(fn: object, i: int, axis: str, size: int) -> LayerRule:
    found = probe(fn, 1, size)
    if found.nout not in (None, size):
        raise GraphError(
            f"Function {i} of a Sequential makes {found.nout} neurons of {size}; what becomes of them is not known. "
            "Make vertices of the layers, and of the function nas.immutable_vertex or nas.absorb_vertex."
        )
    fixed = found.fixed if found.nout is not None else "its function could not be tried on made-up numbers"
    return LayerRule(
        leaves={},
        coupled={axis: f"layers_{i}: {found.coupled}"} if found.coupled else {},
        fixed={axis: f"layers_{i}: {fixed}"} if fixed else {},
    )


def _compatible(parts: list[LayerRule]) -> list[LayerRule]:
    """The same, if no two parts split the same neurons."""
    split = [axis for part in parts for axis in part.composed]
    twice = next((axis for axis in split if split.count(axis) > 1), None)
    if twice is not None:
        raise GraphError(
            f"Two layers of a Sequential split the neurons of {twice!r} in their own ways (into groups). Make "
            "vertices of the layers."
        )
    return parts
