"""A network evaluated in a larger shape, with masks that say which neurons count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax.core.scope import CollectionFilter

from naivenas_jax.errors import GraphError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.graph.structure import Structure
from naivenas_jax.jaxpr.interpret import flattened
from naivenas_jax.paths import Path
from naivenas_jax.population.alive import alive_runs
from naivenas_jax.sizes.origins import Origins
from naivenas_jax.trace.model.call_arguments import traced_shape
from naivenas_jax.trace.program.analyse import Analysed, analyse
from naivenas_jax.trace.program.capture import Role, capture
from naivenas_jax.trace.program.rebind import NewSizes, evaluate_resized, mask_of_runs
from naivenas_jax.trace.program.rules.silence import silent
from naivenas_jax.transfer.variables import as_given, flat, nested
from naivenas_jax.typing import Array, PyTree, Variables


@dataclass(frozen=True, eq=False)
class MaskedNetwork:
    """What a network computes, as a function of its variables and of masks of runs of neurons.

    Traced and analysed once. Values of neurons that do not count may be anything inside; they are zero in outputs, and
    as they were in updated variables.

    Attributes:
      graph: the network.
      analysed: its computation.
      data: the arrays among the inputs and keyword arguments.
      rngs: keys by stream.
      updating: whether some variables are updated.
    """

    graph: Graph
    analysed: Analysed
    data: Sequence[Array]
    rngs: Mapping[str, jax.Array]
    updating: bool

    @classmethod
    def of(
        cls,
        graph: Graph,
        variables: Variables,
        inputs: tuple[PyTree, ...],
        *,
        mutable: CollectionFilter,
        rngs: Mapping[str, jax.Array],
        kwargs: Mapping[str, object],
    ) -> MaskedNetwork:
        """A network, traced at the shapes of some arguments.

        Args:
          graph: the network.
          variables: its variables, or their shapes.
          inputs: as for `Graph.apply`.
          mutable: likewise.
          rngs: likewise, by stream.
          kwargs: likewise.

        Raises:
          GraphError: if an input is the shape of an array.
        """
        arguments, data = Structure.split((inputs, dict(kwargs)))
        if any(isinstance(array, jax.ShapeDtypeStruct) for array in data):
            raise GraphError("Inputs of `Population.apply` are arrays, found a jax.ShapeDtypeStruct.")
        updating = mutable is not False

        def call(
            values: Variables, arrays: Sequence[Array], keys: Mapping[str, jax.Array], extra: Sequence[Array]
        ) -> tuple[PyTree, Variables]:
            del extra
            own, named = arguments.join(arrays)
            result = graph.apply(as_given(values, variables), *own, mutable=mutable, rngs=dict(keys) or None, **named)
            return result if updating else (result, {})

        shapes = {path: traced_shape(array) for path, array in flat(variables).items()}
        program = capture(call, shapes, [traced_shape(array) for array in data], dict(rngs), [])
        return cls(graph, analyse(program), [jnp.asarray(array) for array in data], rngs, updating)

    @property
    def convolves(self) -> bool:
        """Whether there is a convolution outside of loops and branches."""
        jaxpr = self.analysed.program.closed.jaxpr
        return any(eqn.primitive.name == "conv_general_dilated" for eqn in flattened(jaxpr))

    def __call__(self, variables: Variables, masks: Mapping[int, jax.Array], *, looped: bool = False) -> PyTree:
        """What the network computes.

        Args:
          variables: of its own shapes.
          masks: for each run of neurons of which some do not count, shape (neurons,), bool: which do.
          looped: whether this is the body of a loop on a CPU, where some layouts of convolutions are slow.

        Returns:
          The outputs; with variables that are updated, a pair of both.

        Raises:
          StructureError: if neurons cannot be told apart in the computation.
        """
        analysed, program = self.analysed, self.analysed.program
        ties, alive = analysed.ties, alive_runs(self.graph, analysed, masks)
        sizes = NewSizes(analysed.rows, ties, ties, Origins(ties), alive=alive, looped=looped)
        arrays = _for_full_size(self.graph, flat(variables), masks)
        given: dict[Role, Array] = {
            **{Role("variable", path): array for path, array in arrays.items()},
            **{Role("input", i): array for i, array in enumerate(self.data)},
            **{Role("rng", name): key for name, key in self.rngs.items()},
        }
        results = evaluate_resized(program.closed, analysed.frame, sizes, [given[role] for role in program.arguments])
        known = [analysed.frame.read(atom) for atom in program.closed.jaxpr.outvars]
        outputs, updates = program.returned(
            [
                silent(sizes, value, array, range(len(value.dims)), given.get(role, 0))
                for value, array, role in zip(known, results, program.results, strict=True)
            ]
        )
        return (outputs, nested(updates)) if self.updating else outputs


def _for_full_size(graph: Graph, arrays: dict[Path, Array], masks: Mapping[int, jax.Array]) -> dict[Path, Array]:
    """Variables for a computation that divides by the root of the full size, where that of a member has its own."""
    found = dict(arrays)
    for path, dim in graph.ties.rescaled.items():
        axis = graph.ties.leaves[path].axes[dim]
        mask = None if axis is None else mask_of_runs(graph.ties, masks, graph.ties.axes[axis])
        if mask is not None:
            factor = jnp.sqrt(mask.size / jnp.sum(mask))
            found[path] = arrays[path] * factor.astype(jnp.result_type(arrays[path]))
    return found
