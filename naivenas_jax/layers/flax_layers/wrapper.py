"""Layers around another layer, whose weights they normalise: weight and spectral normalisation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias

import flax.linen as nn
from flax import nnx

from naivenas_jax.graph.vertices.expression import names_in
from naivenas_jax.layers.describe import as_tuple, describes
from naivenas_jax.layers.nesting import keywords_understood, train_keywords, within
from naivenas_jax.layers.registry import rule_of
from naivenas_jax.layers.rule import LayerRule, VariableKey, by_path, reasons
from naivenas_jax.paths import Path, path_text

_Wrapper: TypeAlias = nn.WeightNorm | nnx.WeightNorm | nn.SpectralNorm | nnx.SpectralNorm

_INNER = "layer_instance"


@describes(nn.WeightNorm, nnx.WeightNorm)
def weight_norm(layer: nn.WeightNorm | nnx.WeightNorm, nin: tuple[int, ...]) -> LayerRule:
    """Each weight is divided by its length over all axes but the feature axes, and multiplied by a scale per feature.

    The axes that the length is taken over are coupled: a neuron whose weights are zero adds nothing to the length, but
    a neuron whose value is zero does. (Salimans and Kingma, Weight Normalization, NeurIPS 2016.)
    """
    rule = _inside(layer, nin)
    leaves: dict[VariableKey, str] = dict(rule.leaves)
    coupled = reasons(rule.coupled, ())
    for path, tokens in _parameters(rule):
        if not _chosen(layer, path):
            continue
        features = [axis % len(tokens) for axis in _axes(layer.feature_axes)]
        if layer.use_scale:
            leaves[_beside(layer, path, "scale")] = " ".join(tokens[axis] for axis in features)
        rest = [token for axis, token in enumerate(tokens) if axis not in features]
        coupled |= dict.fromkeys(_named(rest), "weights are divided by their length over it")
    scales = [path for path in leaves if path not in rule.leaves]
    return replace(
        rule,
        leaves=leaves,
        new={**rule.new, **dict.fromkeys(scales, 1.0)},
        initialisers={**rule.initialisers, **dict.fromkeys(scales, layer.scale_init)},
        coupled=coupled,
    )


@describes(nn.SpectralNorm, nnx.SpectralNorm)
def spectral_norm(layer: nn.SpectralNorm | nnx.SpectralNorm, nin: tuple[int, ...]) -> LayerRule:
    """Each matrix is divided by its largest singular value, which couples all neurons that it reads and makes.

    Beside each lie the vector and the value that the power iteration has come to. (Miyato et al., Spectral
    Normalization for Generative Adversarial Networks, ICLR 2018.)
    """
    rule = _inside(layer, nin)
    leaves: dict[VariableKey, str] = dict(rule.leaves)
    coupled = reasons(rule.coupled, ())
    starts: dict[VariableKey, float] = {}
    for path, tokens in _parameters(rule):
        if len(tokens) < 2 or layer.n_steps < 1:
            continue
        leaves[_beside(layer, path, "u")] = f"1 {tokens[-1]}"
        leaves[_beside(layer, path, "sigma")] = ""
        starts[_beside(layer, path, "sigma")] = 1.0
        coupled |= dict.fromkeys(_named(tokens), "weights are divided by their largest singular value")
    inner = rule.train
    return replace(
        rule,
        leaves=leaves,
        new={**rule.new, **starts},
        coupled=coupled,
        train=lambda train: {**(inner(train) if inner else {}), "update_stats": train},
    )


def _inside(layer: _Wrapper, nin: tuple[int, ...]) -> LayerRule:
    """The rule of the wrapped layer; the wrapper takes the keyword arguments that the wrapped layer takes."""
    wrapped = layer.layer_instance
    rule = rule_of(wrapped, nin)
    return replace(
        within(_INNER, rule),
        train=train_keywords(wrapped, rule),
        keywords=keywords_understood(wrapped, rule),
        indexed=rule.indexed,
    )


def _parameters(rule: LayerRule) -> Iterator[tuple[Path, list[str]]]:
    """The parameters of the wrapped layer, and what lies on their dimensions."""
    for path, text in by_path(rule.leaves).items():
        if path[0] == "params":
            yield path[2:], [token.removeprefix("<") for token in text.split()]


def _named(tokens: list[str]) -> list[str]:
    named = [token for token in tokens if token != "_" and not token.isdigit()]
    return [name for token in named for name in names_in(token)]


def _axes(feature_axes: int | Sequence[int] | None) -> tuple[int, ...]:
    return () if feature_axes is None else as_tuple(feature_axes)


def _chosen(layer: nn.WeightNorm | nnx.WeightNorm, path: Path) -> bool:
    """Whether weight normalisation applies to a parameter."""
    if isinstance(layer, nnx.WeightNorm):
        return bool(layer.variable_filter(path, None))
    name = path_text((_INNER, *path))
    return not layer.variable_filter or any(part in name for part in layer.variable_filter)


def _beside(layer: _Wrapper, path: Path, what: str) -> Path:
    """The path of the variable that a wrapper keeps for a parameter: one name, made of the parameter's path."""
    if isinstance(layer, nnx.Module):
        places = {"scale": ("params", "scales", path_text(path))}
        return places.get(what, ("batch_stats", "batch_stats", path_text((*path, what))))
    collection = "params" if what == "scale" else layer.collection_name
    return collection, path_text((_INNER, *path, what))
