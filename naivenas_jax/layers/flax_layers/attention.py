"""Multi-head dot-product attention: heads, query-key dimensions, value dimensions and width, each an axis of its own.

With the projections ``q = x Wq + bq`` (and k, v alike) of shape (..., heads, dimensions), the output is

    y = sum over heads of  softmax(q k^T / sqrt(D)) v Wo

D is the number of query-key dimensions. Flax computes it from the shape, so ``Wq`` and ``bq`` are multiplied by
``sqrt(D' / D)`` when it becomes D', and the scores stay what they were. Keys count as the readers of these dimensions:
a new one starts with a random query and a key of zero, and changes nothing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, TypeAlias, TypedDict

import flax.linen as nn
import jax
from flax import nnx
from flax.nnx.nn import attention as nnx_attention
from jax.typing import DTypeLike

from naivenas_jax.errors import GraphError
from naivenas_jax.graph.op import keywords_of
from naivenas_jax.layers.describe import describes
from naivenas_jax.layers.ops.value_sized_attention import ValueSizedAttention, value_sized_attention
from naivenas_jax.layers.rule import LayerRule, Reasons, VariableKey, variable_path
from naivenas_jax.sizes.ties import Initialiser
from naivenas_jax.typing import Array

_Attention: TypeAlias = nn.MultiHeadDotProductAttention | nnx.MultiHeadAttention

#: What is known to be softmax(q k^T / sqrt(D)) v.
_KNOWN: tuple[object, ...] = (nn.dot_product_attention, nnx_attention.dot_product_attention, value_sized_attention)


@describes(nn.MultiHeadDotProductAttention, nn.MultiHeadAttention, nn.SelfAttention, ValueSizedAttention)
def attention(layer: nn.MultiHeadDotProductAttention, nin: tuple[int, ...]) -> LayerRule:
    """linen: one input for all, or one for queries and one for keys and values, or one each."""
    if isinstance(layer, nn.SelfAttention) and len(nin) > 1:
        raise GraphError("nn.SelfAttention reads one input. For others use nn.MultiHeadDotProductAttention.")
    width = layer.qkv_features or nin[0]
    value = getattr(layer, "value_features", None) or width
    if width % layer.num_heads or value % layer.num_heads:
        raise GraphError(f"{width} neurons, {value} of values, are not divisible by {layer.num_heads} heads.")
    return LayerRule(
        leaves=_leaves(layer, len(nin), "heads", cached=(1 if layer.decode else None)),
        inner={
            "heads": layer.num_heads,
            "qk": width // layer.num_heads,
            "value": value // layer.num_heads,
            "out": layer.out_features or nin[0],
        },
        initialisers=_initialisers(layer),
        resize=_resized_linen,
        train=lambda train: {"deterministic": not train},
        **_common(layer),
    )


@describes(nnx.MultiHeadAttention)
def attention_nnx(layer: nnx.MultiHeadAttention, nin: tuple[int, ...]) -> LayerRule:
    """nnx: as in linen; heads of keys and values may be fewer, each for a group of heads of queries."""
    grouped = layer.num_kv_heads != layer.num_heads
    kv_heads = "kv_heads" if grouped else "heads"
    query, key, value = _ports(len(nin))
    cache = layer.cached_key
    return LayerRule(
        leaves=_leaves(layer, len(nin), kv_heads, cached=None if cache is None else len(cache.shape) - 3),
        sizes={
            "num_heads": "heads",
            "num_kv_heads": kv_heads,
            "head_dim": "qk",
            "value.out_features.1": "value",
            "out_features": "out",
            "in_features": query,
            "in_kv_features": key,
            "qkv_features": "heads*qk",
            **_projection("query", query, "heads", "qk"),
            **_projection("key", key, kv_heads, "qk"),
            **_projection("value", value, kv_heads, "value"),
            "out.in_features.0": "heads",
            "out.in_features.1": "value",
            "out.out_features.0": "out",
            **({"query_ln.num_features": "qk", "key_ln.num_features": "qk"} if layer.normalize_qk else {}),
        },
        inner={"group": layer.num_heads // layer.num_kv_heads} if grouped else {},
        composed={"heads": "kv_heads*group"} if grouped else {},
        resize=_resized_nnx,
        train=lambda train: {"decode": False},
        **_common(layer),
    )


def _ports(count: int) -> tuple[str, str, str]:
    """Which inputs queries, keys and values are made of."""
    return "in0", f"in{min(1, count - 1)}", f"in{count - 1}"


def _projection(name: str, source: str, heads: str, features: str) -> dict[str, str]:
    return {f"{name}.in_features.0": source, f"{name}.out_features.0": heads, f"{name}.out_features.1": features}


def _leaves(layer: _Attention, count: int, kv_heads: str, cached: int | None) -> dict[VariableKey, str]:
    """Patterns; ``cached``: the number of batch axes of a cache of keys and values."""
    query, key, value = _ports(count)
    read = "<qk" if layer.normalize_qk else "qk"  # keys read the dimensions of queries
    leaves: dict[VariableKey, str] = {"params/query/kernel": f"{query} <heads <qk", "params/query/bias": "<heads <qk"}
    leaves |= {"params/key/kernel": f"{key} <{kv_heads} {read}", "params/key/bias": f"<{kv_heads} {read}"}
    leaves |= {"params/value/kernel": f"{value} <{kv_heads} <value", "params/value/bias": f"<{kv_heads} <value"}
    leaves |= {"params/out/kernel": "heads value out", "params/out/bias": "out"}
    if not layer.use_bias:
        leaves = {path: text for path, text in leaves.items() if variable_path(path)[-1] != "bias"}
    if layer.normalize_qk:
        leaves |= {"params/query_ln/scale": "qk", "params/key_ln/scale": "qk"}
    if cached is not None:
        batch = "_ " * (cached + 1)
        leaves |= {"cache/cached_key": f"{batch}<{kv_heads} <qk", "cache/cached_value": f"{batch}<{kv_heads} <value"}
        leaves |= {"cache/cache_index": ""}
    return leaves


class _Common(TypedDict):
    """Fields of the rule that linen and nnx have in common."""

    new: Mapping[VariableKey, float]
    rescaled: Mapping[VariableKey, str]
    coupled: Reasons
    fixed: Reasons
    keywords: frozenset[str] | None
    example: tuple[int, ...]


def _common(layer: _Attention) -> _Common:
    scaled = [] if layer.normalize_qk else ["params/query/kernel", *["params/query/bias"] * layer.use_bias]
    inner = ("heads", "qk", "value")
    unknown = f"nobody knows what attention_fn={getattr(layer.attention_fn, '__name__', layer.attention_fn)} does to it"
    normalised = "queries and keys are normalised over it"
    return {
        "new": {"params/query_ln/scale": 1.0, "params/key_ln/scale": 1.0, "params/key/bias": 0.0},
        "rescaled": dict.fromkeys(scaled, "qk"),
        "coupled": {"qk": normalised if layer.normalize_qk else "queries and keys are contracted over it"},
        "fixed": None if layer.attention_fn in _KNOWN else dict.fromkeys(inner, unknown),
        "keywords": _keywords(type(layer)),
        "example": (1, 2),
    }


def _keywords(kind: type[_Attention]) -> frozenset[str] | None:
    known = keywords_of(kind.__call__)
    return None if known is None else known - {"inputs_k", "inputs_v", "inputs_kv"}


def _initialisers(layer: nn.MultiHeadDotProductAttention) -> dict[VariableKey, Initialiser]:
    kernel, bias = _flattened(layer.kernel_init, 1), _flattened(layer.bias_init, 0)
    found: dict[VariableKey, Initialiser] = {f"params/{name}/kernel": kernel for name in ("query", "key", "value")}
    found |= {f"params/{name}/bias": bias for name in ("query", "key", "value")}
    return found | {
        "params/out/kernel": _flattened(layer.out_kernel_init or layer.kernel_init, 2),
        "params/out/bias": layer.out_bias_init or layer.bias_init,
    }


def _flattened(init: Initialiser, read: int) -> Initialiser:
    """Initialise as a matrix, as Flax does: the first ``read`` dimensions against the others."""

    def initialise(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        rows, columns = math.prod(shape[:read]), math.prod(shape[read:])
        return init(key, (rows, columns) if read else (columns,), dtype).reshape(shape)

    return initialise


def _resized_linen(layer: nn.MultiHeadDotProductAttention, sizes: Mapping[str, int]) -> nn.Module:
    """Flax's own layer, or where its values are not as wide as its queries, ours."""
    heads, qk, value = sizes["heads"], sizes["qk"], sizes["value"]
    own: dict[str, Any] = {"num_heads": heads, "qkv_features": heads * qk, "out_features": sizes["out"]}
    if value == qk and not isinstance(layer, ValueSizedAttention):
        return layer.clone(**own)
    fields = [each.name for each in dataclasses.fields(nn.MultiHeadDotProductAttention) if each.init]
    given = {name: getattr(layer, name) for name in fields if name not in ("parent", "name")} | own
    if value == qk:
        return nn.MultiHeadDotProductAttention(**given, parent=None)
    return ValueSizedAttention(**given, value_features=heads * value, parent=None)


def _resized_nnx(layer: nnx.MultiHeadAttention, sizes: Mapping[str, int]) -> nnx.MultiHeadAttention:
    """Flax's fused computation takes values as wide as queries; for others it is ours."""
    if layer.attention_fn in _KNOWN:
        equal = sizes["value"] == sizes["qk"]
        layer.attention_fn = nnx_attention.dot_product_attention if equal else value_sized_attention
    return layer
