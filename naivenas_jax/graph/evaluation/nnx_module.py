"""A graph with its variables as a Flax nnx module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import jax
from flax import nnx
from flax.errors import InvalidRngError
from flax.nnx import variablelib
from flax.traverse_util import flatten_dict

from naivenas_jax.errors import GraphError, VariablesError
from naivenas_jax.graph.evaluation.variable_trees import no_variables
from naivenas_jax.typing import PyTree, Variables


class Applies(Protocol):
    """Whatever computes with variables as Flax does; a `Graph` does."""

    @property
    def apply(self) -> Callable[..., PyTree]:
        """``apply(variables, *inputs, mutable=, rngs=, **keywords)``."""


class GraphModel(nnx.Module):
    """A graph that holds its variables, as nnx models do.

    Variables are of nnx's types by their collection (``nnx.Param``, ``nnx.BatchStat``), so that ``nnx.Optimizer``,
    ``nnx.split``, ``nnx.grad`` and ``nnx.state`` do what they do for any model. It computes in evaluation until
    ``model.train()`` is called, and again after ``model.eval()``. What a call updates, such as batch statistics, is
    written to its variables.

    Attributes:
      graph: the graph.
      variables: by collection, the variables.
      rngs: streams of random numbers for training, or None.
      deterministic: whether it computes in evaluation; ``train`` and ``eval`` of nnx set it.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> from flax import nnx
    >>> x = nas.input_vertex("x", 3)
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("hidden", nn.Dense(8), x)))
    >>> mutation = nas.delta_nout(graph, graph.init(jax.random.key(0), jax.numpy.ones((1, 3))), {"hidden": -2})
    >>> model = mutation.graph.as_nnx(mutation.variables)
    >>> model(jax.numpy.ones((4, 3))).shape, nnx.state(model, nnx.Param)["variables"]["params"]["hidden"]["bias"].shape
    ((4, 2), (6,))
    """

    def __init__(self, graph: Applies, variables: Variables, rngs: nnx.Rngs | None = None):
        if not isinstance(variables, Mapping) or any(map(_is_none, variables.items())):
            raise no_variables(variables)
        if not (rngs is None or isinstance(rngs, nnx.Rngs)):
            raise GraphError(f"rngs must be nnx.Rngs, or None; found {type(rngs).__name__}: {rngs!r:.80}.")
        self.graph = nnx.static(graph)
        self.variables = nnx.Dict({name: _held(tree, _kind(name)) for name, tree in variables.items()})
        self.rngs = rngs
        self.deterministic = True

    def __call__(self, *inputs: PyTree, rngs: object = None, **kwargs: object) -> PyTree:
        """Compute the outputs, as `Graph.apply` does.

        Args:
          *inputs: one array per input vertex.
          rngs: keys by stream, or ``nnx.Rngs``; in training the module's own, if it has any.
          **kwargs: keyword arguments for vertices; ``train`` is True in training.

        Returns:
          The outputs. Updated variables are written to the model.

        Raises:
          GraphError: if a layer needs random numbers, and has none.
        """
        if not self.deterministic:
            kwargs.setdefault("train", True)
            rngs = self.rngs if rngs is None else rngs
        held = {name: _values(tree) for name, tree in self.variables.items()}
        writable = [name for name in held if name != "params"]
        given = _keys(rngs) if isinstance(rngs, nnx.Rngs) else rngs
        try:
            result = self.graph.apply(held, *inputs, mutable=writable or False, rngs=given, **kwargs)
        except InvalidRngError as error:
            raise GraphError(
                f"A layer needs random numbers ({str(error).partition(' (')[0]}). Pass rngs=nnx.Rngs(0) to "
                "graph.as_nnx, or to this call; or call model.eval(), after which it needs none."
            ) from error
        if not writable:
            return result
        outputs, updates = result
        for path, value in flatten_dict(dict(updates)).items():
            node = self.variables
            for key in path[:-1]:
                node = node.get(key, {})
            if path[-1] in node:  # what is only sown has no variable
                node[path[-1]].set_value(value)
        return outputs


def _is_none(collection: tuple[object, object]) -> bool:
    """Whether an item of a dict is no collection of variables."""
    name, tree = collection
    return not (isinstance(name, str) and isinstance(tree, Mapping))


def _kind(collection: str) -> type[nnx.Variable[jax.Array]]:
    """The type of variable of a collection, by nnx's own names."""
    kind: type[nnx.Variable[jax.Array]] = variablelib.variable_type_from_name(collection, allow_register=True)
    return kind


def _held(tree: PyTree, kind: type[nnx.Variable[jax.Array]]) -> PyTree:
    """A tree of arrays as nnx holds it."""
    if isinstance(tree, Mapping):
        return nnx.Dict({str(key): _held(child, kind) for key, child in tree.items()})
    array = tree.get_value() if isinstance(tree, nnx.Variable) else tree
    kinds = (jax.numpy.number, jax.numpy.bool_, jax.dtypes.extended)
    if not any(jax.numpy.issubdtype(getattr(array, "dtype", object), one) for one in kinds):
        raise VariablesError(f"variables must hold arrays; found {type(array).__name__}: {array!r:.80}.")
    return kind(jax.numpy.asarray(array))


def _values(tree: PyTree) -> PyTree:
    """The inverse of `_held`."""
    if isinstance(tree, nnx.Variable):
        return tree.get_value()
    return {key: _values(child) for key, child in tree.items()}


def _keys(rngs: nnx.Rngs) -> dict[str, jax.Array]:
    """A key from each stream, and one for dropout, which a default stream stands in for."""
    return {name: getattr(rngs, name)() for name in dict.fromkeys(("dropout", *rngs))}
