"""Other kernel sizes of convolutions: `change_kernel`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Unpack

import flax.linen as nn
import jax
from flax import nnx

from naivenas_jax.align.axis_plan import AxisPlan
from naivenas_jax.align.plan import Dims, Plan
from naivenas_jax.checks import MOST_NEURONS, as_whole, shown
from naivenas_jax.errors import RequestError, StructureError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.map_ops import with_ops
from naivenas_jax.graph.op import Op
from naivenas_jax.graph.vertex import Vertex
from naivenas_jax.layers.describe import as_tuple
from naivenas_jax.layers.flax_layers.window import Resized, Window
from naivenas_jax.layers.ops.layer_op import LayerOp
from naivenas_jax.mutate.around.keywords import VerbKeywords
from naivenas_jax.mutate.around.verb import verb
from naivenas_jax.mutate.request.edit_arguments import vertex_of
from naivenas_jax.mutate.result.mutation import Mutation
from naivenas_jax.paths import Path
from naivenas_jax.transfer.new_neurons.apply_plan import transfer
from naivenas_jax.transfer.new_neurons.fills import zeros
from naivenas_jax.transfer.new_neurons.strategy import New, strategy_of
from naivenas_jax.transfer.undo import UndoRecord
from naivenas_jax.typing import Variables

_KINDS = (nn.Conv, nnx.Conv, nn.ConvTranspose, nnx.ConvTranspose)


@verb
def change_kernel(
    graph: Graph,
    variables: Variables,
    request: Mapping[str, int | Sequence[int]],
    *,
    new: New = "zeros",
    rng: jax.Array | None = None,
    **keywords: Unpack[VerbKeywords],
) -> Mutation:
    """Other kernel sizes of convolutions. Filters stay centred: taps are added and dropped at the rim of the window.

    A larger window with zeros around the old taps computes what the old one did. What the padding has to do with it:

    - "SAME" stays. With a stride above 1 the positions that it adds depend on the input, and outputs may shift (not of
      a transposed convolution).
    - "CIRCULAR", "REFLECT" and "CAUSAL" stay. Of a causal convolution the earliest taps come and go.
    - Numbers change along with the window, so that the number of outputs and what every tap reads stay; "VALID" becomes
      numbers, positive where the window grows and negative where it shrinks.

    Of a window of even size, the tap before the middle is its centre, as of "SAME". A dilated window whose size changes
    between even and odd may have to shift; the notes of the mutation say so.

    Args:
      graph: the network.
      variables: its variables; untouched.
      request: for each convolution its new kernel size, a number for each spatial axis; one number where there is one.
      new: what new taps start at: "zeros", or what else ``new=`` may be.
      rng: a key for new taps; default ``jax.random.key(0)``.
      **keywords: ``inputs``, ``fallback``, ``on_change``: as for `delta_nout`.

    Returns:
      A `Mutation`. The taps along spatial axis i of vertex v are the axis ``"v:window<i>"`` of its plan.

    Raises:
      RequestError: if a size is no whole number of at least 1, or there are too few or too many.
      StructureError: if a vertex is no convolution, or one with weights of its own at every position, with a mask, or
        transposed and circular.
      Others: as `delta_nout`.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("conv", nn.Conv(4, (3, 3)), x))
    >>> variables = graph.init(jax.random.key(0), jax.numpy.ones((1, 8, 8, 3)))
    >>> mutation = nas.change_kernel(graph, variables, {"conv": (5, 4)})
    >>> mutation.variables["params"]["conv"]["kernel"].shape, mutation.indices("conv:window0").tolist()
    ((5, 4, 3, 4), [-1, 0, 1, 2, -1])
    """
    del keywords  # they are for what happens around the change
    if not isinstance(request, Mapping) or not request:
        raise RequestError(f"change_kernel takes {{vertex: kernel size}}, found {shown(request)}.")
    changed = {name: _resized(vertex_of(graph, name), size) for name, size in request.items()}
    plan = _plan(graph, changed)
    leaves = {path: replace(leaf, axes=plan.leaves[path]) for path, leaf in graph.ties.leaves.items()}
    notes = tuple(f"{name!r}: {one.shifts}" for name, each in changed.items() for one in each if one.shifts)
    strategy = strategy_of(new)
    kept = strategy.fill is zeros or new is None
    return Mutation(
        graph=with_ops(graph, {name: _op(graph[name].op, each) for name, each in changed.items()}),
        variables=transfer(plan, leaves, variables, strategy, rng),
        plan=plan,
        before=graph,
        notes=notes,
        variables_before=variables,
        undo_records=(UndoRecord.of(plan, variables, leaves, False),),
        incomparable="; ".join(notes) or (None if kept else f"new={new!r} need not keep the function"),
    )


def _resized(vertex: Vertex, size: int | Sequence[int]) -> tuple[Resized, ...]:
    windows, sizes = _windows(vertex), as_tuple(size)
    if len(sizes) != len(windows) or not all((as_whole(each) or 0) >= 1 for each in sizes):
        raise RequestError(
            f"{vertex.name!r} has a kernel of {tuple(w.size for w in windows)}; its new size must be {len(windows)} "
            f"whole number{'s' * (len(windows) > 1)} of at least 1, found {shown(size)}."
        )
    if math.prod(int(each) for each in sizes) > MOST_NEURONS:
        raise RequestError(
            f"The kernel of {vertex.name!r} would have {shown(size)} taps; "
            f"{MOST_NEURONS} in all are the most that is taken."
        )
    return tuple(window.resized(int(each)) for window, each in zip(windows, sizes, strict=True))


def _windows(vertex: Vertex) -> tuple[Window, ...]:
    """The window of a convolution along each spatial axis."""
    module: Any = vertex.op.module if isinstance(vertex.op, LayerOp) else None
    if type(module) not in _KINDS:
        raise StructureError(
            f"{vertex.name!r} ({vertex.op.describe()}) has no kernel size that could change: it is no nn.Conv, "
            "nn.ConvTranspose, nnx.Conv or nnx.ConvTranspose."
        )
    if module.mask is not None:
        raise StructureError(
            f"The kernel of {vertex.name!r} is masked; what the mask means for other sizes is unknown."
        )
    transposed = isinstance(module, nn.ConvTranspose | nnx.ConvTranspose)
    if transposed and module.padding == "CIRCULAR":
        raise StructureError(f"{vertex.name!r} is transposed and circular; where its taps lie is not known.")
    sizes = as_tuple(module.kernel_size)
    paddings = _paddings(module.padding, len(sizes))
    return tuple(
        Window(
            size,
            _at(module.kernel_dilation, i),
            _at(module.strides, i),
            paddings[i],
            transposed,
            flipped=transposed and module.transpose_kernel,
        )
        for i, size in enumerate(sizes)
    )


def _at(value: Any, i: int) -> int:
    """An option of a convolution along one axis: one number for all, one for each, or None for 1."""
    values = as_tuple(value)
    return int(values[i if len(values) > 1 else 0] or 1)


def _paddings(padding: Any, rank: int) -> Sequence[Any]:
    if isinstance(padding, str):
        return [padding] * rank
    given = [padding] * rank if isinstance(padding, int) else list(padding)
    return [(each, each) if isinstance(each, int) else tuple(each) for each in given]


def _plan(graph: Graph, changed: Mapping[str, Sequence[Resized]]) -> Plan:
    axes, leaves = dict[str, AxisPlan](), dict[Path, Dims]()
    for name, each in changed.items():
        path = ("params", name, "kernel")
        windows = [f"{name}:window{i}" for i in range(len(each))]
        for axis, before, one in zip(windows, _windows(graph[name]), each, strict=True):
            axes[axis] = AxisPlan.of(before.size, one.source(before.size))
        leaves[path] = (*windows, *graph.ties.leaves[path].axes[len(windows) :])
    return Plan.identity(graph.ties, axes=axes, leaves=leaves)


def _op(op: Op, each: Sequence[Resized]) -> LayerOp:
    """The convolution with its new windows."""
    assert isinstance(op, LayerOp)  # `_windows` has refused all others
    size = tuple(one.window.size for one in each)
    padding = [one.window.padding for one in each]
    named = isinstance(padding[0], str)
    attributes = {"kernel_size": size, "padding": padding[0] if named else tuple(padding)}
    return op.reshaped(attributes, {("params", "kernel"): size})
