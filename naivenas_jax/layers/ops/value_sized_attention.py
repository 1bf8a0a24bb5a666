"""Attention whose values may have another size than its queries, which Flax's layers do not offer.

The variables are those that Flax's layers have.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.nnx.nn import attention as nnx_attention, dtypes
from jax.typing import DTypeLike

Precision: TypeAlias = str | jax.lax.Precision | tuple[str, str] | tuple[jax.lax.Precision, jax.lax.Precision] | None


class ValueSizedAttention(nn.MultiHeadDotProductAttention):
    """Flax's linen layer, which has one size for queries, keys and values, with another for values.

    Attributes:
      value_features: the size of all heads' values together; None: as for queries and keys.

    >>> import jax
    >>> layer = ValueSizedAttention(num_heads=2, qkv_features=8, value_features=6)
    >>> variables = layer.init(jax.random.key(0), jnp.ones((1, 3, 4)))
    >>> variables["params"]["query"]["kernel"].shape, variables["params"]["value"]["kernel"].shape
    ((4, 2, 4), (4, 2, 3))
    """

    value_features: int | None = None

    @nn.compact
    def __call__(  # type: ignore[override]
        self,
        inputs_q: jax.Array,
        inputs_k: jax.Array | None = None,
        inputs_v: jax.Array | None = None,
        *,
        mask: jax.Array | None = None,
        deterministic: bool | None = None,
        dropout_rng: jax.Array | None = None,
        sow_weights: bool = False,
    ) -> jax.Array:
        """As Flax's layer; only the projection to values gets other features on its way."""
        features = self.value_features or self.qkv_features or inputs_q.shape[-1]

        def sized(
            run: Callable[..., jax.Array],
            args: tuple[object, ...],
            kwargs: dict[str, object],
            context: nn.module.InterceptorContext,
        ) -> jax.Array:
            dense = context.module
            if dense.name != "value" or dense.parent is not self or context.method_name != "__call__":
                return run(*args, **kwargs)
            shape = self.num_heads, features // self.num_heads
            values: jax.Array = dense.clone(features=shape, name=None, parent=dense.scope)(*args, **kwargs)
            return values

        with nn.intercept_methods(sized):
            output: jax.Array = super().__call__(
                inputs_q,
                inputs_k,
                inputs_v,
                mask=mask,
                deterministic=deterministic,
                dropout_rng=dropout_rng,
                sow_weights=sow_weights,
            )
            return output


def value_sized_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    bias: jax.Array | None = None,
    *,
    dtype: DTypeLike | None = None,
    precision: Precision = None,
    **keywords: Any,
) -> jax.Array:
    """softmax(q k^T / sqrt(D)) v of nnx, for values of any width. The fused one of Flax takes equal widths only.

    Args:
      query: shape (..., queries, heads, D).
      key: shape (..., keys, heads or fewer, D).
      value: shape (..., keys, heads or fewer, any).
      bias: added to the scores.
      dtype: of the computation; by default the common dtype of the arguments.
      precision: of the products.
      **keywords: keyword arguments of ``nnx.dot_product_attention``.
    """
    query, key, value = dtypes.promote_dtype((query, key, value), dtype=dtype)
    weights = nnx_attention.dot_product_attention_weights(
        query, key, bias, dtype=query.dtype, precision=precision, **keywords
    )
    value = jnp.repeat(value, query.shape[-2] // value.shape[-2], axis=-2)  # each of the fewer heads for its group
    return jnp.einsum("...hqk,...khd->...qhd", weights, value, precision=precision)
