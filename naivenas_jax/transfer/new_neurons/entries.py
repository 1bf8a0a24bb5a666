"""One parameter that gets new entries: what a function for ``new=`` sees of it, and what it may return."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import jax
import numpy as np
from jaxtyping import Bool, Shaped

from naivenas_jax.align.axis_plan import AxisPlan
from naivenas_jax.checks import shown
from naivenas_jax.errors import PlanError
from naivenas_jax.paths import Path, path_text, subscripts
from naivenas_jax.sizes.ties import Leaf
from naivenas_jax.transfer.take import new_mask, new_shape, to_host
from naivenas_jax.typing import Array


@dataclass(frozen=True, eq=False)
class NewEntries:
    """One parameter that gets new entries, as a function for ``new=`` sees it.

    The function is called once for every parameter that lies on an axis with new neurons, and returns an array of
    ``shape``, or one that broadcasts to it. Of what it returns only the entries where ``is_new`` holds are used.

    Attributes:
      path: where the parameter lies in the variables, ``("params", "conv1", "kernel")``.
      old: shape (n_0, n_1, ...). The values before the change, as a numpy array of the parameter's dtype.
      shape: (m_0, m_1, ...), the shape after the change.
      is_new: shape (m_0, m_1, ...). Whether an entry is new: it lies at a new position in at least one dimension.
      axes: for each dimension the plan of its axis (`AxisPlan`), or None where the size is fixed.
      leaf: what the graph knows of the parameter. ``leaf.roles`` has for each dimension "in" (neurons are read there),
        "out" (they are made there) or None; ``leaf.init`` is the layer's own initialiser, or None; ``leaf.new`` is what
        a parameter per neuron (a bias, a scale) starts at, and None for weights.
      key: a PRNG key of its own: ``rng=`` of the verb, folded with the path.
      off: a number, or an array that broadcasts to ``shape``: what entries that read a new neuron are to be so that it
        counts for nothing. 0, except where the weight is a function of the parameter (``w - 0.3``).

    >>> import jax, numpy as np, flax.linen as nn, naivenas_jax as nas
    >>> def tenths(entries: nas.NewEntries) -> np.ndarray:
    ...     print(entries.path[1:], entries.shape, entries.made, entries.out)
    ...     return np.full(entries.shape, 0.1)
    >>> x = nas.input_vertex("x", 2)
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(1), nas.layer("hidden", nn.Dense(2), x)))
    >>> variables = graph.init(jax.random.key(0), np.ones((1, 2)))
    >>> mutation = nas.delta_nout(graph, variables, {"hidden": 1}, new=tenths)
    ('hidden', 'kernel') (2, 3) (1,) 1
    ('hidden', 'bias') (3,) (0,) 0
    ('out', 'kernel') (3, 1) (1,) 1
    >>> mutation.variables["params"]["hidden"]["bias"].tolist()
    [0.0, 0.0, 0.10000000149011612]
    """

    path: Path
    old: Shaped[np.ndarray, "*before"]
    shape: tuple[int, ...]
    is_new: Bool[np.ndarray, "*after"]
    axes: tuple[AxisPlan | None, ...]
    leaf: Leaf
    key: jax.Array
    off: Array | float = 0.0

    @property
    def made(self) -> tuple[int, ...]:
        """The dimensions on which the parameter makes neurons."""
        return tuple(d for d, role in enumerate(self.leaf.roles) if role == "out")

    @property
    def out(self) -> int | None:
        """The last dimension on which the parameter makes neurons; None for a parameter per neuron that makes none."""
        return self.made[-1] if self.made else None


#: Gives the new entries of one parameter: an array of the new shape, or one that broadcasts to it.
Fill: TypeAlias = Callable[[NewEntries], object]


def entries_of(
    path: Path,
    array: Array,
    axes: tuple[AxisPlan | None, ...],
    leaf: Leaf,
    rng: jax.Array | None,
    off: Array | float = 0.0,
) -> NewEntries:
    """What a fill sees of the parameter at ``path``, whose dimensions lie on ``axes``; see `NewEntries`."""
    old = to_host(array)
    sources = [None if axis is None else axis.source for axis in axes]
    return NewEntries(
        path=path,
        old=old,
        shape=new_shape(sources, old.shape),
        is_new=new_mask(sources, old.shape),
        axes=axes,
        leaf=leaf,
        key=key_for(rng, path),
        off=off,
    )


def filled(entries: NewEntries, fill: Fill) -> Shaped[np.ndarray, "*after"]:
    """What ``fill`` returns for the entries, in their shape.

    Raises:
      PlanError: if it returned no numbers, or an array that does not broadcast.
    """
    given = fill(entries)
    values = np.asarray(given)
    if values.dtype.kind in "OSUmM":
        raise PlanError(f"new= returned {given!r:.80} for {subscripts(entries.path)}; it must be an array of numbers.")
    try:
        return np.broadcast_to(values, entries.shape)
    except ValueError as error:
        raise PlanError(
            f"new= returned shape {values.shape} for {subscripts(entries.path)}; it must be {entries.shape} or "
            "broadcast to it."
        ) from error


def generator(key: jax.Array) -> np.random.Generator:
    """A numpy generator seeded by a key; unlike ``jax.random`` it compiles nothing per shape."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel().tolist())


def key_for(rng: object, path: Path) -> jax.Array:
    """The key of one parameter: ``rng`` (None: ``jax.random.key(0)``) folded with the path.

    Raises:
      PlanError: if ``rng`` is no key.
    """
    key = jax.random.key(0) if rng is None else rng
    try:
        return jax.random.fold_in(key, zlib.crc32(path_text(path).encode()))  # type: ignore[arg-type]  # tried
    except (TypeError, ValueError) as error:
        raise PlanError(f"rng= must be one key, such as jax.random.key(0); found {shown(rng)}.") from error
