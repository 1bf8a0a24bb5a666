"""Models of packages for graphs, molecules, many-body physics, transport and differential equations."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn, nnx
from loading import Loaded, linen, nnx_model, normal, of

#: Two triangles that share an edge, in both directions.
EDGES = jnp.array([[0, 1, 1, 2, 2, 0, 1, 3, 2, 3], [1, 0, 2, 1, 0, 2, 3, 1, 3, 2]])


def jraphx(name: str, **config: Any) -> Loaded:
    model = of("jraphx.nn.models", name, 5, 12, 3, out_features=4, rngs=nnx.Rngs(0), **config)
    return nnx_model(model, normal(4, 5), EDGES)


class Equivariant(nn.Module):
    """A network of interacting atoms, as the documentation of e3x builds it."""

    @nn.compact
    def __call__(self, numbers: jax.Array, positions: jax.Array) -> jax.Array:
        e3x = importlib.import_module("e3x")
        source, target = EDGES
        basis = e3x.nn.basis(
            positions[source] - positions[target],
            num=6,
            max_degree=1,
            radial_fn=e3x.nn.reciprocal_bernstein,
            cutoff_fn=partial(e3x.nn.smooth_cutoff, cutoff=5.0),
        )
        x = e3x.nn.Embed(num_embeddings=10, features=12)(numbers)
        for _ in range(2):
            y = e3x.nn.MessagePass()(x, basis, dst_idx=target, src_idx=source, num_segments=len(positions))
            y = e3x.nn.add(x, y)
            y = e3x.nn.silu(e3x.nn.Dense(12)(y))
            x = e3x.nn.add(x, e3x.nn.Dense(12)(y))
        x = e3x.nn.change_max_degree_or_type(x, max_degree=0, include_pseudotensors=False)
        return nn.Dense(1)(x)[..., 0, 0, 0]


def opifex(module: str, name: str, *inputs: Any, **config: Any) -> Loaded:
    model = of(f"opifex.neural.{module}", name, **config, rngs=nnx.Rngs(0))
    return nnx_model(model, *inputs)


def kan(layer: str, **config: Any) -> Loaded:
    """A Kolmogorov-Arnold network of the package jaxkan."""
    return nnx_model(of("jaxkan.models.KAN", "KAN", [3, 10, 8, 2], layer, config, 0), 0.5 * normal(6, 3))


def netket(name: str, **config: Any) -> Loaded:
    return linen(of("netket.models", name, param_dtype=jnp.float32, **config), jnp.sign(normal(3, 8)))


def autoregressive(name: str, **config: Any) -> Loaded:
    """A model of the package netket whose weights are masked, so that a site depends on the sites before it."""
    hilbert = importlib.import_module("netket").hilbert.Spin(0.5, 8)
    return netket(name, hilbert=hilbert, layers=2, features=6, **config)


def under_pinn(name: str, **config: Any) -> Loaded:
    return linen(of("underPINN", name, **config), normal(5, 3))


SCIENCE: dict[str, Callable[[], Loaded]] = {
    "jraphx/GCN": partial(jraphx, "GCN", norm="layer_norm"),
    "jraphx/GraphSAGE": partial(jraphx, "GraphSAGE", jk="cat"),
    "jraphx/GIN": partial(jraphx, "GIN", norm="batch_norm"),
    "jraphx/GAT": partial(jraphx, "GAT", heads=2),
    "e3x/message passing": lambda: linen(Equivariant(), jnp.array([1, 6, 8, 1]), normal(4, 3)),
    "ott-jax/ICNN": lambda: linen(of("ott.neural.networks.icnn", "ICNN", 4, [12, 8]), normal(5, 4)),
    "ott-jax/ICNN, positive weights": lambda: linen(
        of("ott.neural.networks.icnn", "ICNN", 4, [12, 8], pos_weights=True, rectifier_fn=nn.softplus), normal(5, 4)
    ),
    "ott-jax/velocity MLP": lambda: nnx_model(
        of("ott.neural.networks.velocity_field.mlp", "MLP", 4, hidden_dims=[12, 10], rngs=nnx.Rngs(0)),
        normal(5),
        normal(5, 4),
    ),
    "opifex/FNO": lambda: opifex(
        "operators.fno.base",
        "FourierNeuralOperator",
        normal(2, 3, 8, 8),
        in_channels=3,
        out_channels=2,
        hidden_channels=8,
        modes=3,
        num_layers=2,
    ),
    "opifex/DeepONet": lambda: opifex(
        "operators.deeponet.base",
        "DeepONet",
        normal(2, 6),
        normal(2, 5, 2),
        branch_sizes=[6, 12, 10],
        trunk_sizes=[2, 8, 10],
    ),
    "opifex/graph neural operator": lambda: opifex(
        "operators.graph.gno",
        "GraphNeuralOperator",
        normal(1, 4, 5),
        EDGES.T[None],
        node_dim=5,
        hidden_dim=12,
        num_layers=2,
    ),
    "jaxkan/KAN, Chebyshev": partial(kan, "chebyshev", D=4),
    "jaxkan/KAN, radial": partial(kan, "rbf", D=5),
    "jaxkan/KAN, splines": partial(kan, "base", k=3, G=3),
    "jaxkan/KAN, sines": partial(kan, "sine", D=4),
    "jaxkan/KKAN": lambda: nnx_model(
        of("jaxkan.models.KKAN", "KKAN", 3, 2, m=8, D_e=4, H=8, L=2, seed=0), 0.5 * normal(6, 3)
    ),
    "netket/RBM": partial(netket, "RBM", alpha=2),
    "netket/deep set": lambda: linen(
        of("netket.models", "DeepSetMLP", features_phi=(10, 8), features_rho=(6,), param_dtype=jnp.float32),
        normal(3, 8, 2),
    ),
    "netket/ARNNDense": partial(autoregressive, "ARNNDense"),
    "netket/ARNNConv1D": partial(autoregressive, "ARNNConv1D", kernel_size=3),
    "underpinn/SIREN": partial(under_pinn, "SIREN", layers=(3, 12, 10, 2)),
    "underpinn/gated MLP": partial(under_pinn, "GatedMLP", layers=(3, 12, 12, 2)),
    "bijx/ResNet": lambda: nnx_model(
        of("bijx.nn.nets", "ResNet", 4, 3, width=12, depth=2, rngs=nnx.Rngs(0)), normal(5, 4)
    ),
}
