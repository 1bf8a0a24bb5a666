"""Recurrent layers: cells, the layers that run them along a sequence, and two of these in opposite directions.

A cell with state h computes gates from ``W x + U h + b``, and the next h from gates and h, neuron by neuron. So all
gates are tied to the hidden neurons: ``W`` reads the input and makes them, ``U`` reads and makes them. A hidden neuron
that no ``U`` and no later layer reads can be removed without a change of the output.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Mapping
from dataclasses import replace
from typing import TypeAlias

import flax.linen as nn
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn import initializers
from flax.nnx.nn.recurrent import modified_orthogonal  # orthogonal, for every dtype

from naivenas_jax.errors import GraphError
from naivenas_jax.layers.describe import describes, sizes
from naivenas_jax.layers.nesting import joined_rules, within
from naivenas_jax.layers.registry import rule_of
from naivenas_jax.layers.rule import LayerRule, VariableKey
from naivenas_jax.sizes.ties import Initialiser

_LinenCell: TypeAlias = nn.LSTMCell | nn.OptimizedLSTMCell | nn.GRUCell | nn.MGUCell | nn.SimpleCell | nn.ConvLSTMCell
_NnxCell: TypeAlias = nnx.LSTMCell | nnx.OptimizedLSTMCell | nnx.GRUCell | nnx.SimpleCell
_Cell: TypeAlias = _LinenCell | _NnxCell


@describes(nn.LSTMCell, nn.OptimizedLSTMCell)
def lstm(layer: nn.LSTMCell | nn.OptimizedLSTMCell, nin: tuple[int, ...]) -> LayerRule:
    """Long short-term memory; the fused one has the same variables in linen."""
    del nin
    return cell(layer, dict.fromkeys(("ii", "if", "ig", "io"), False), dict.fromkeys(("hi", "hf", "hg", "ho"), True))


@describes(nnx.LSTMCell)
def lstm_nnx(layer: nnx.LSTMCell, nin: tuple[int, ...]) -> LayerRule:
    """As `lstm`."""
    del nin
    return cell(layer, dict.fromkeys(("ii", "if_", "ig", "io"), False), dict.fromkeys(("hi", "hf", "hg", "ho"), True))


@describes(nnx.OptimizedLSTMCell)
def fused_lstm(layer: nnx.OptimizedLSTMCell, nin: tuple[int, ...]) -> LayerRule:
    """All gates one after the other."""
    del nin
    return cell(layer, {"dense_i": False}, {"dense_h": True}, "4*out")


@describes(nn.GRUCell)
def gru(layer: nn.GRUCell, nin: tuple[int, ...]) -> LayerRule:
    """Gated recurrent unit."""
    del nin
    return cell(layer, dict.fromkeys(("ir", "iz", "in"), True), {"hr": False, "hz": False, "hn": True})


@describes(nnx.GRUCell)
def fused_gru(layer: nnx.GRUCell, nin: tuple[int, ...]) -> LayerRule:
    """All gates one after the other."""
    del nin
    return cell(layer, {"dense_i": True}, {"dense_h": False}, "3*out")


@describes(nn.MGUCell)
def mgu(layer: nn.MGUCell, nin: tuple[int, ...]) -> LayerRule:
    """Minimal gated unit."""
    del nin
    return cell(layer, {"if": True, "in": True}, {"hf": False, "hn": layer.reset_gate})


@describes(nn.SimpleCell)
def simple(layer: nn.SimpleCell, nin: tuple[int, ...]) -> LayerRule:
    """One layer of neurons that see themselves."""
    del nin
    return cell(layer, {"i": True}, {"h": False})


@describes(nnx.SimpleCell)
def simple_nnx(layer: nnx.SimpleCell, nin: tuple[int, ...]) -> LayerRule:
    """As `simple`."""
    del nin
    return cell(layer, {"dense_i": True}, {"dense_h": False})


@describes(nn.ConvLSTMCell)
def conv_lstm(layer: nn.ConvLSTMCell, nin: tuple[int, ...]) -> LayerRule:
    """Long short-term memory whose gates are convolutions."""
    del nin
    bias = layer.use_bias
    return cell(layer, {"ih": bias}, {"hh": bias}, "4*out", window=len(tuple(layer.kernel_size)))


def cell(
    layer: _Cell, reads: Mapping[str, bool], recurs: Mapping[str, bool], made: str = "out", window: int = 0
) -> LayerRule:
    """The rule of a cell.

    Args:
      layer: the cell.
      reads: the parts that read the input, and whether they have a bias.
      recurs: the parts that read the hidden neurons, and whether they have a bias.
      made: what a part makes.
      window: the number of positions of a kernel.
    """
    leaves: dict[VariableKey, str] = {}
    initialisers: dict[VariableKey, Initialiser] = {}
    attributes = sizes(layer, features="out", hidden_features="out", in_features="in")
    for source, parts in (("in", reads), ("out", recurs)):
        for part, bias in parts.items():
            leaves[f"params/{part}/kernel"] = f"{'_ ' * window}{source} {made}"
            initialisers[f"params/{part}/kernel"] = _kernel_init(layer, source)
            if bias:
                leaves[f"params/{part}/bias"] = made
                initialisers[f"params/{part}/bias"] = _bias_init(layer, part)
            if isinstance(layer, nnx.Module):
                attributes |= {f"{part}.in_features": source, f"{part}.out_features": made}
    return LayerRule(
        leaves=leaves,
        sizes=attributes,
        initialisers=initialisers,
        coupled=None if _starts_alike(layer) else {"out": "its initial state depends on the number of neurons"},
        example=(1, *(1,) * window),
    )


def _kernel_init(layer: _Cell, source: str) -> Initialiser:
    if isinstance(layer, nn.ConvLSTMCell):
        return initializers.lecun_normal()
    name = "kernel_init" if source == "in" else "recurrent_kernel_init"
    default = initializers.lecun_normal() if source == "in" else modified_orthogonal
    return getattr(layer, name, default)


def _bias_init(layer: _Cell, part: str) -> Initialiser:
    if isinstance(layer, nn.MGUCell):
        return layer.forget_bias_init if part == "if" else layer.activation_bias_init
    return getattr(layer, "bias_init", initializers.zeros_init())


def _starts_alike(layer: _Cell) -> bool:
    """Whether every hidden neuron starts at the same number, however many there are."""
    return layer.carry_init in (None, initializers.zeros_init(), initializers.ones_init())


@describes(nn.RNN, nnx.RNN)
def rnn(layer: nn.RNN | nnx.RNN, nin: tuple[int, ...]) -> LayerRule:
    """A cell along a sequence: its variables, under ``cell``."""
    _check_output(layer)
    part = rule_of(layer.cell, nin)
    return replace(joined_rules(within("cell", part)), example=(1, 2, *part.example[1:]))


@describes(nn.Bidirectional, nnx.Bidirectional)
def bidirectional(layer: nn.Bidirectional | nnx.Bidirectional, nin: tuple[int, ...]) -> LayerRule:
    """Two layers along a sequence, from either end. Their outputs are joined, or merged neuron by neuron."""
    _check_output(layer)
    if layer.forward_rnn is layer.backward_rnn:
        raise GraphError("forward_rnn and backward_rnn are one layer. Make two: their neurons are different ones.")
    both = {"forward": layer.forward_rnn, "backward": layer.backward_rnn}
    merged = layer.merge_fn in _NEURON_BY_NEURON
    parts = [within(f"{side}_rnn", rule_of(part, nin), out="out" if merged else side) for side, part in both.items()]
    joined = layer.merge_fn is inspect.signature(type(layer).__init__).parameters["merge_fn"].default
    whole = replace(
        joined_rules(*parts), example=parts[0].example, composed={} if merged else {"out": "forward+backward"}
    )
    if merged or joined:
        return whole
    reason = "merge_fn is unknown: concatenation (the default) is not, nor are jnp.add, multiply, maximum and minimum"
    return replace(whole, fixed={"forward": reason, "backward": reason})


_NEURON_BY_NEURON = (jnp.add, jnp.multiply, jnp.maximum, jnp.minimum, operator.add, operator.mul)


def _check_output(layer: nn.RNN | nnx.RNN | nn.Bidirectional | nnx.Bidirectional) -> None:
    if layer.return_carry:
        raise GraphError(
            f"{type(layer).__name__}(return_carry=True) returns its state besides its output, and a vertex has one "
            "output. Make it with return_carry=False."
        )
