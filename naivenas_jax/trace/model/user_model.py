"""A linen module, or a function, as a function of its variables: a value that can be pickled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import flax.linen as nn
import jax
from flax import core
from flax.errors import ModifyScopeVariableError

from naivenas_jax.errors import GraphError
from naivenas_jax.graph.structure import Structure, arrays_in, is_array
from naivenas_jax.paths import Path
from naivenas_jax.pickling import reduced_fields
from naivenas_jax.trace.model.call_arguments import CallSignature
from naivenas_jax.trace.model.traced_model import Keys, Keywords, Mutable
from naivenas_jax.trace.program.module_names import linen_marks
from naivenas_jax.transfer.variables import as_given, nested, plain
from naivenas_jax.typing import Array, PyTree, Shape, Variables


@dataclass(frozen=True, eq=False)
class LinenModel:
    """A linen module; see `ModelFunction`.

    Attributes:
      module: the module.
      layout: the variables without their arrays, where they are no nested mappings; else None.
      signature: the arguments of its method.
    """

    module: nn.Module
    layout: PyTree
    signature: CallSignature

    @classmethod
    def of(cls, module: nn.Module, variables: Variables, method: object) -> LinenModel:
        """The module with the layout of its variables; ``method`` as ``module.apply`` takes it."""
        layout = None if plain(variables) is variables else without_arrays(variables)
        return cls(module, layout, CallSignature.of(_method(module, method)))

    @property
    def identity(self) -> nn.Module:
        """What it is equal by."""
        return self.module

    def __call__(
        self, values: Variables, arguments: tuple[PyTree, ...], rngs: Keys, mutable: Mutable, given: Keywords
    ) -> tuple[PyTree, Variables]:
        """Outputs, and the variables that changed.

        Raises:
          GraphError: if the module updates variables that may not be updated.
        """
        own = {key: value for key, value in given.items() if key != "method"}
        held = values if self.layout is None else as_given(values, self.layout)
        args, keywords = self.signature.call(arguments, own)
        keywords["method"] = given.get("method")
        wanted = list(mutable) if isinstance(mutable, tuple) else mutable
        try:
            with linen_marks():
                result = self.module.apply(held, *args, rngs=dict(rngs) or None, mutable=wanted or False, **keywords)
        except ModifyScopeVariableError as error:
            raise GraphError(
                f"The model updates variables: {error} Pass graph.apply(..., mutable=[...]) with that collection, and "
                "take the updated variables from the result."
            ) from error
        return (result[0], core.unfreeze(result[1])) if wanted else (result, {})

    def written(
        self, variables: Mapping[Path, Array | Shape], inputs: tuple[PyTree, ...], rngs: Keys, kwargs: Keywords
    ) -> tuple[str, ...]:
        """The collections that the model updates in evaluation, too: those that it cannot be called without."""
        structure, data = Structure.split(inputs)

        def can_do(writes: list[str]) -> bool:
            def call(values: Variables, given: list[Array]) -> tuple[PyTree, ...]:
                return arrays_in(self(values, structure.join(given), rngs, tuple(writes), kwargs))

            try:
                jax.eval_shape(call, nested(variables), data)
            except Exception as error:  # whatever else it says will be told of when the module is traced
                return not isinstance(error.__cause__, ModifyScopeVariableError)
            return True

        every = sorted({path[0] for path in variables} - {"params"})
        if not every or can_do([]) or not can_do(every):
            return ()
        return tuple(name for name in every if not can_do([other for other in every if other != name]))

    def __reduce__(self) -> tuple[object, ...]:
        return reduced_fields(self, LinenModel)


@dataclass(frozen=True, eq=False)
class FunctionModel:
    """A function of (variables, inputs); see `ModelFunction`.

    Attributes:
      fn: the function.
      layout: the variables that it takes, without their arrays.
      signature: its other arguments.
    """

    fn: Callable[..., PyTree]
    layout: PyTree
    signature: CallSignature

    @classmethod
    def of(cls, fn: Callable[..., PyTree], variables: Variables) -> FunctionModel:
        """The function with the layout of its variables."""
        return cls(fn, without_arrays(variables), CallSignature.of(fn))

    @property
    def identity(self) -> Callable[..., PyTree]:
        """What it is equal by."""
        return self.fn

    def __call__(
        self, values: Variables, arguments: tuple[PyTree, ...], rngs: Keys, mutable: Mutable, given: Keywords
    ) -> tuple[PyTree, Variables]:
        """Outputs; nothing is updated."""
        del rngs, mutable
        args, keywords = self.signature.call(arguments, given)
        return self.fn(as_given(values, self.layout), *args, **keywords), {}

    def __reduce__(self) -> tuple[object, ...]:
        return reduced_fields(self, FunctionModel)


def without_arrays(variables: Variables) -> PyTree:
    """The same tree with shapes in the places of its arrays, so that nobody who keeps it keeps those."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if is_array(leaf) else leaf, variables
    )


def _method(module: nn.Module, method: object) -> Callable[..., PyTree]:
    """The method of a linen module that ``method=`` means."""
    if isinstance(method, str):
        method = getattr(type(module), method)
    return method if callable(method) else type(module).__call__
