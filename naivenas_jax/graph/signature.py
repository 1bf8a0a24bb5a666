"""What a graph is called with and what it returns, where these are more than arrays: the signature of a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import jax

from naivenas_jax.errors import GraphError, VariablesError
from naivenas_jax.graph.structure import ARRAY, KeyPath, Structure, is_array, leaf_name, same_constant
from naivenas_jax.typing import PyTree


@dataclass(frozen=True)
class Signature:
    """The structures of the inputs and of the outputs of a model: dicts, tuples, dataclasses, any pytrees.

    Attributes:
      inputs: the structure of the tuple of arguments; what is no array in them is a constant of the model.
      outputs: the structure of what is returned.
      names: the name of each argument.
      variables: the structure of the variables, where they are no mapping.
    """

    inputs: Structure
    outputs: Structure
    names: tuple[str, ...]
    variables: Structure | None = None

    def check_variables(self, variables: PyTree) -> None:
        """Raise unless variables that are no mapping are of the kind that they were.

        Raises:
          VariablesError: if they have another structure or other constants than at the import.
        """
        if not isinstance(variables, Mapping) and Structure.split(variables)[0] != self.variables:
            raise VariablesError(
                f"The variables are {type(variables).__name__} of another structure, or with other constants, than at "
                "the import. Import the model with these, or give nested dicts, {'params': ...}."
            )

    @property
    def input_names(self) -> tuple[str, ...]:
        """A name for each array of the arguments: the name of the argument, then the keys on the way, with slashes."""
        return tuple(self._name(path) for path in self.inputs.paths())

    @property
    def output_names(self) -> tuple[str, ...]:
        """A name for each array of the outputs: ``output``, then the keys on the way, with slashes."""
        return tuple(leaf_name("output", path) for path in self.outputs.paths())

    @property
    def plain(self) -> bool:
        """Whether each argument is an array."""
        count = len(self.names)
        return self.inputs == Structure(jax.tree.structure((0,) * count), (ARRAY,) * count)

    def arrays(self, inputs: tuple[PyTree, ...]) -> tuple[PyTree, ...]:
        """The arrays of the arguments, one after the other.

        Args:
          inputs: arguments of this structure, or its arrays one by one.

        Raises:
          GraphError: names what is missing, unknown, or not the constant that it was.
        """
        leaves, tree = jax.tree.flatten(inputs)
        if tree == self.inputs.tree:
            self._check_constants(inputs)
            return tuple(leaf for leaf, was in zip(leaves, self.inputs.leaves, strict=True) if was is ARRAY)
        if self.plain or self._one_by_one(inputs):
            return inputs
        raise GraphError(
            f"The model takes what it was imported with: {self.described()}; {self._other(inputs)}. The arrays alone, "
            "one after the other, will do, too."
        )

    def arguments(self, given: PyTree) -> tuple[PyTree, ...] | None:
        """What was given for all inputs together, as a tuple of arguments; None: it is neither that nor one argument.

        Args:
          given: a tuple or list of the arguments or of their arrays, or the only argument.
        """
        if isinstance(given, tuple | list):
            several = tuple(given)
            if jax.tree.structure(several) == self.inputs.tree or self._one_by_one(several):
                return several
        return (given,) if jax.tree.structure((given,)) == self.inputs.tree or self._one_by_one((given,)) else None

    def returned_now(self, whole: PyTree, behind: bool) -> bool:
        """Whether the model has returned the structure that it returned at the import.

        Args:
          whole: what the model has returned.
          behind: whether further vertices compute something of it.

        Raises:
          GraphError: if it is another structure, and something is computed of it.
        """
        found = Structure.split(whole)[0]
        if found != self.outputs and behind:
            raise GraphError(
                "Called like this, the model returns another structure than at its import, and vertices that read its "
                f"outputs know those of the import only: {found.tree!s:.120}, not {self.outputs.tree!s:.120}. Import "
                "the model with the same keyword arguments."
            )
        return found == self.outputs

    def described(self) -> str:
        """The arguments by name, in words."""
        constants = [self._name(path) for path, leaf in _leaves(self._example()) if leaf is not ARRAY]
        beside = f", and {', '.join(constants)} as constants" if constants else ""
        return f"arrays {', '.join(self.input_names)}{beside}"

    def _one_by_one(self, inputs: tuple[PyTree, ...]) -> bool:
        count = sum(leaf is ARRAY for leaf in self.inputs.leaves)
        return len(inputs) == count and all(is_array(x) or isinstance(x, int | float | complex) for x in inputs)

    def _example(self) -> PyTree:
        return jax.tree.unflatten(self.inputs.tree, self.inputs.leaves)

    def _name(self, path: KeyPath) -> str:
        """The name of what lies at a path among the arguments."""
        number = int(getattr(path[0], "idx", 0))
        return leaf_name(self.names[number] if number < len(self.names) else f"input{number}", path[1:])

    def _check_constants(self, inputs: tuple[PyTree, ...]) -> None:
        for (path, now), was in zip(_leaves(inputs, none=False), self.inputs.leaves, strict=True):
            if was is not ARRAY and not same_constant(was, now):
                name = self._name(path)
                traced = isinstance(now, jax.core.Tracer)
                found = "a traced value: close over it, or make it static for jax.jit" if traced else repr(now)[:80]
                raise GraphError(
                    f"{name!r} was {was!r:.80} when the model was imported, which is a constant of it; found {found}. "
                    "Import the model with this value to compute with it; what is to vary is given as an array."
                )

    def _other(self, inputs: tuple[PyTree, ...]) -> str:
        """How arguments are of another structure, in words."""
        found = {self._name(path): leaf for path, leaf in _leaves(inputs)}
        wanted = {self._name(path): leaf for path, leaf in _leaves(self._example())}
        if missing := [name for name in wanted if name not in found]:
            return f"{missing[0]!r} is missing"
        if unknown := [name for name in found if name not in wanted]:
            return f"{unknown[0]!r} is not among them"
        none = next((name for name in wanted if (wanted[name] is None) != (found[name] is None)), None)
        if none is not None:
            return f"{none!r} is {'an array' if wanted[none] is None else 'None'}, and was not"
        return f"found other containers, {jax.tree.structure(inputs)!s:.120}, not {self.inputs.tree!s:.120}"


def _leaves(tree: PyTree, none: bool = True) -> Iterator[tuple[KeyPath, object]]:
    """Each leaf of a tree with the path to it; None is a leaf if it is to be shown."""
    is_leaf = (lambda value: value is None) if none else None
    return iter(jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)[0])


def checked_signature(signature: object) -> Signature | None:
    """``signature``, if it is one, or None.

    Raises:
      GraphError: if it is something else.
    """
    if signature is None or isinstance(signature, Signature):
        return signature
    raise GraphError(
        f"signature= is the signature of an imported graph, graph.signature, or None; found {type(signature).__name__}."
    )
