"""What one layer ties, as data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias, TypeVar

from naivenas_jax.checks import as_count, require_flag, require_function, require_mappings
from naivenas_jax.errors import GraphError
from naivenas_jax.graph.op import Identity
from naivenas_jax.graph.vertices.expression import names_in
from naivenas_jax.graph.vertices.pattern import Pattern, parse
from naivenas_jax.paths import Path
from naivenas_jax.sizes.condition import ConditionFunction
from naivenas_jax.sizes.ties import Initialiser

#: Names a variable: ``"collection/path"``, or the names one by one where one of them contains a slash.
VariableKey: TypeAlias = str | tuple[str, ...]
#: Why something holds: a text for all axes that it may concern, or a text for each axis.
Reasons: TypeAlias = str | Mapping[str, str] | None
ValueT = TypeVar("ValueT")


@dataclass(frozen=True)
class LayerRule:
    """What a layer ties and how it is resized.

    A rule says for each variable of the layer what lies on its dimensions, in a small notation: one token per
    dimension, ``in`` for the neurons of the input (``in0``, ``in1``, ... where there are several), ``out`` for those of
    the output, the name of an inner axis, an expression of axes (``4*out``, ``heads*width``, ``a+b``), or ``_`` for a
    size that never changes. The last named token is the axis that the variable makes, the others are axes that it
    reads; ``<`` marks made axes where that is not so (``"<out in"``). See ``docs/layers.md``.

    Variables are named ``"collection/path"``, or by a tuple of names where a name contains a slash.

    Attributes:
      leaves: for each variable the pattern of its dimensions. A layer with a pattern or size that names ``out`` has
        output neurons of its own (SizeAbsorb); without, its output neurons are its input neurons (SizeInvariant).
      sizes: for each attribute of the layer that holds a size, the axis it is the size of. ``"down.features"`` is an
        attribute of a submodule, ``"features.0"`` an entry of a tuple.
      inner: the sizes of inner axes that no attribute holds.
      composed: for each axis that is made of others, the expression that makes it:
        ``{"in": "groups*width"}``, all combinations, or ``{"out": "forward+backward"}``, one after the other.
      shapes: for each attribute of an nnx layer that holds the shape of a variable, that variable.
      resize: where setting attributes does not make the layer of other sizes: ``(layer, sizes) -> layer``, given the
        size of every axis that ``sizes`` and ``inner`` name, and of inputs. An nnx layer is a copy without arrays, and
        may be changed in place. Of ``layer_keywords=`` of the verbs it gets the entry of the vertex, as keywords.
      rescaled: for each variable that is multiplied by ``sqrt(after / before)`` when the size of an axis changes
        (since the layer divides by the square root of that size): the axis, which lies on the variable.
      new: what a per-neuron variable starts at for a new neuron; 0 where not given.
      initialisers: the layer's own initialiser of each variable, ``(key, shape, dtype) -> array``.
      identity: for each variable a function ``(shape, passes) -> array`` of the value that makes the layer compute the
        identity, where ``passes`` of shape (nin, nout) is 1 where an input neuron is to arrive at an output neuron.
        None: the layer cannot. ``{}`` says of a layer without variables that it is the identity in evaluation, as
        dropout is.
      train: how ``train=`` of ``graph.apply`` reaches the layer: ``train -> keyword arguments``.
      keywords: the keyword arguments of ``graph.apply`` that the layer understands; None: all that its signature has.
      coupled: why a neuron that is zero is not the same as one that is not there, or None. A text speaks of the
        input; a mapping has a reason for each axis.
      fixed: why the layer's sizes may not change, or None. A text speaks of inputs and output; a mapping has a reason
        for each axis.
      constraints: further conditions on the sizes: a function of a mapping from the names of axes to sizes, that
        returns conditions, ``lambda size: nas.multiple_of(size["in"], 8)``.
      example: the input shape ``(batch, ..., nin)`` that the layer can be initialised with, without the last axis.
      positional: whether variables depend on how many positions the layer reads, so that an example will not do.
      indexed: whether the input holds positions of neurons and not their values, as for an embedding. Neurons that stay
        then keep their positions, and new ones come last.

    Raises:
      GraphError: if a field is of a wrong kind; and where a layer is made with the rule, if a pattern or expression
        cannot be read.

    >>> import naivenas_jax as nas
    >>> rule = nas.LayerRule(leaves={"params/kernel": "in out", "params/bias": "out"}, sizes={"features": "out"})
    >>> rule.absorbs, rule.patterns["params", "kernel"].axes
    (True, ('in0', 'out'))
    >>> rule.starts
    {('params', 'kernel'): None, ('params', 'bias'): 0.0}
    """

    leaves: Mapping[VariableKey, str]
    sizes: Mapping[str, str] = field(default_factory=dict)
    inner: Mapping[str, int] = field(default_factory=dict)
    composed: Mapping[str, str] = field(default_factory=dict)
    shapes: Mapping[str, VariableKey] = field(default_factory=dict)
    resize: Callable[..., object] | None = None
    rescaled: Mapping[VariableKey, str] = field(default_factory=dict)
    new: Mapping[VariableKey, float] = field(default_factory=dict)
    initialisers: Mapping[VariableKey, Initialiser] = field(default_factory=dict)
    identity: Mapping[VariableKey, Identity] | None = None
    train: Callable[[bool], Mapping[str, object]] | None = None
    keywords: frozenset[str] | None = None
    coupled: Reasons = None
    fixed: Reasons = None
    constraints: ConditionFunction = None
    example: tuple[int, ...] = (1,)
    positional: bool = False
    indexed: bool = False

    def __post_init__(self) -> None:
        dicts = ["leaves", "sizes", "inner", "composed", "shapes", "rescaled", "new", "initialisers"]
        dicts += ["identity"] if self.identity is not None else []
        require_mappings({f"LayerRule: {name}": getattr(self, name) for name in dicts}, GraphError)
        for name, takes in (("train", "train"), ("constraints", "sizes")):
            if (function := getattr(self, name)) is not None:
                require_function(function, f"LayerRule: {name}", takes, GraphError)
        if self.resize is not None and not callable(self.resize):
            raise GraphError(f"LayerRule: resize must be a function of (layer, sizes); found {self.resize!r:.80}.")
        require_flag(self.positional, "LayerRule: positional", GraphError)
        require_flag(self.indexed, "LayerRule: indexed", GraphError)
        if not isinstance(self.example, tuple) or any(as_count(size) is None for size in self.example):
            raise GraphError(f"LayerRule: example must be a tuple of sizes of at least 1, found {self.example!r:.80}.")
        for key, text in self.leaves.items():
            if not isinstance(key, str | tuple) or not isinstance(text, str):
                raise GraphError(
                    "LayerRule: leaves takes names of variables and patterns, {'params/kernel': 'in out'}; found "
                    f"{key!r:.80}: {text!r:.80}."
                )

    @property
    def absorbs(self) -> bool:
        """Whether the output has neurons of its own."""
        words = [name for pattern in self.patterns.values() for axis in pattern.axes if axis for name in names_in(axis)]
        return "out" in (*words, *self.sizes.values(), *self.inner, *self.composed)

    @cached_property
    def patterns(self) -> dict[Path, Pattern]:
        """What lies on the dimensions of each variable, by its path."""
        return {path: parse(text) for path, text in by_path(self.leaves).items()}

    @cached_property
    def starts(self) -> dict[Path, float | None]:
        """What each variable starts at for a new neuron; None: it is a weight, which reads other neurons."""
        new = by_path(self.new)
        return {path: new.get(path, None if "in" in p.roles else 0.0) for path, p in self.patterns.items()}


#: Makes the rule of a layer: ``(layer, nin) -> rule``, where ``nin`` is the number of neurons of each input. Python
#: cannot say that each of these functions takes the layers that it was registered for.
RuleOf: TypeAlias = Callable[[Any, tuple[int, ...]], LayerRule]


def variable_path(key: VariableKey) -> Path:
    """The path of a variable.

    >>> variable_path("params/kernel"), variable_path(("params", "dense/kernel"))
    (('params', 'kernel'), ('params', 'dense/kernel'))
    """
    return tuple(key.split("/")) if isinstance(key, str) else key


def by_path(mapping: Mapping[VariableKey, ValueT]) -> dict[Path, ValueT]:
    """The same entries by the paths of the variables.

    >>> by_path({"params/kernel": 1, ("params", "dense/kernel"): 2})
    {('params', 'kernel'): 1, ('params', 'dense/kernel'): 2}
    """
    return {variable_path(key): value for key, value in mapping.items()}


def port_name(axis: str) -> str:
    """The name that the axis of an input has among vectors: with one input it is called ``in`` as well."""
    return "in0" if axis == "in" else axis


def reasons(given: Reasons, axes: tuple[str, ...]) -> dict[str, str]:
    """A reason for each axis; a text holds for all of ``axes``."""
    if given is None:
        return {}
    found = dict.fromkeys(axes, given) if isinstance(given, str) else given
    return {port_name(axis): reason for axis, reason in found.items()}
