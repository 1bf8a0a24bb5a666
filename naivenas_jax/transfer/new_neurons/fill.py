"""What the parameters of new neurons start at."""

from __future__ import annotations

import math
import numbers
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from naivenas_jax.align.axis_plan import NEW, AxisPlan
from naivenas_jax.align.plan import Plan
from naivenas_jax.errors import PlanError
from naivenas_jax.sizes.ties import Leaf


@dataclass(frozen=True, eq=False)
class NewEntries:
    """One parameter that gets new entries, as a function for ``new=`` sees it.

    Attributes:
      path: where it lies in the variables, ``("params", "conv1", "kernel")``.
      old: its values before the change.
      shape: the shape after the change.
      is_new: bool, of that shape: which entries are new.
      axes: for each dimension the plan of its axis, or None where the size is fixed.
      leaf: what is known of it: the role of each dimension ("in": read, "out": made), the layer's own initialiser.
      key: a PRNG key of its own.
    """

    path: tuple[str, ...]
    old: np.ndarray
    shape: tuple[int, ...]
    is_new: np.ndarray
    axes: tuple[AxisPlan | None, ...]
    leaf: Leaf
    key: jax.Array

    @property
    def made(self) -> tuple[int, ...]:
        """The dimensions on which the parameter makes neurons."""
        return tuple(d for d, role in enumerate(self.leaf.roles) if role == "out")

    @property
    def out(self) -> int | None:
        """The last dimension on which the parameter makes neurons."""
        return self.made[-1] if self.made else None


#: ``NewEntries -> array`` of the new shape (or broadcast to it); only its entries at new positions are used.
Fill = Callable[[NewEntries], Any]
#: What ``new=`` may be: a name (see `STRATEGIES`), a fill, or either by the name of the parameter.
New = str | Fill | Mapping[str, Any] | None


def keep_function(entries: NewEntries) -> Any:
    """Random incoming and zero outgoing weights: the network computes what it did, and new neurons can learn.

    Entries that make a new neuron are normal with variance ``1 / fan_in``; entries by which present neurons read a new
    one are zero. Parameters per neuron (biases, scales, statistics) start at their neutral value.
    """
    if entries.leaf.new is not None or not np.issubdtype(entries.old.dtype, np.inexact):
        return entries.leaf.new or 0.0
    values, draws, made = np.zeros(entries.shape), generator(entries.key), entries.made
    fan_in = max(1, math.prod(size for d, size in enumerate(entries.shape) if d not in made))
    for dim in made:
        axis = entries.axes[dim]
        if axis is not None and axis.new.size:
            index = (slice(None),) * dim + (axis.new,)
            values[index] = draws.normal(size=values[index].shape) / np.sqrt(fan_in)
    return values


def zeros(entries: NewEntries) -> Any:
    """Zero weights; scales and variances start at 1."""
    return entries.leaf.new or 0.0


def initialised(entries: NewEntries) -> Any:
    """The layer's own initialiser; the function is not kept."""
    if entries.leaf.init is None:
        return keep_function(entries)
    dtype = entries.old.dtype if jnp.issubdtype(entries.old.dtype, jnp.inexact) else jnp.float32
    return np.asarray(entries.leaf.init(entries.key, entries.shape, dtype))


def split(entries: NewEntries) -> Any:
    """New neurons copy surviving ones, and readers divide by the number of copies: the function is kept.

    Net2WiderNet (Chen, Goodfellow and Shlens, Net2Net: Accelerating Learning via Knowledge Transfer, ICLR 2016). See
    `copied`. Readers of whole numbers cannot be divided, and are refused.
    """
    return keep_function(entries)  # for groups without a survivor; the others are overwritten by `copied`


def copied(entries: NewEntries, values: np.ndarray) -> np.ndarray:
    """The whole parameter after splitting: neuron j of each changed axis is a copy of ``model(j)``.

    Every entry that reads a neuron which now exists m times is divided by m, old entries too.
    """
    models = [None if axis is None else np.where(axis.source == NEW, axis.twin, axis.source) for axis in entries.axes]
    copies = np.asarray(entries.old)
    known = np.ones(entries.shape, dtype=bool)
    for dim, model in enumerate(models):
        if model is None:
            continue
        copies = np.take(copies, np.maximum(model, 0), axis=dim)
        shape = [-1 if d == dim else 1 for d in range(len(models))]
        known &= (model != NEW).reshape(shape)
        if entries.leaf.roles[dim] == "in":
            copies = copies / _shares(entries, model).reshape(shape)
    return np.where(known, copies, values).astype(entries.old.dtype)


def _shares(entries: NewEntries, model: np.ndarray) -> np.ndarray:
    """Among how many copies each entry that reads is divided."""
    counts = multiplicity(model)
    if jnp.issubdtype(entries.old.dtype, jnp.integer) and (counts > 1).any():
        raise PlanError(
            f"new='split' divides what reads a neuron among its copies, and variables"
            f"{''.join(f'[{key!r}]' for key in entries.path)} holds whole numbers ({entries.old.dtype}), which cannot "
            "be divided. Use new='default' or new='zeros', which keep the function too."
        )
    return counts


def multiplicity(model: np.ndarray) -> np.ndarray:
    """How many positions share the model of each position."""
    counts = np.bincount(model[model != NEW], minlength=1)
    return np.where(model == NEW, 1, counts[np.minimum(np.maximum(model, 0), len(counts) - 1)])


@dataclass(frozen=True)
class ByName:
    """A fill for each of some parameters, by name; `keep_function` for the others.

    Attributes:
      fills: pairs of a name (``"kernel"``) or the end of a path (``"conv1/kernel"``), and the fill. The longest that
        fits a parameter decides.
    """

    fills: tuple[tuple[str, Fill], ...]

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> ByName:
        """Read a mapping from names to what ``new=`` may be, or to a number."""
        return cls(tuple((_checked_name(name), _part(name, value)) for name, value in given.items()))

    def __call__(self, entries: NewEntries) -> Any:
        fitting = [(len(name), i) for i, (name, _) in enumerate(self.fills) if _ends(entries.path, name)]
        return (self.fills[max(fitting)[1]][1] if fitting else keep_function)(entries)

    def check(self, paths: Iterable[tuple[str, ...]]) -> None:
        """Raise PlanError if a name is that of no parameter."""
        known = list(paths)
        for name, _ in self.fills:
            if not any(_ends(path, name) for path in known):
                found = ", ".join(sorted({path[-1] for path in known}))
                raise PlanError(f"new= names {name!r}, and there is no such parameter. Their names are: {found}.")


def _ends(path: tuple[str, ...], name: str) -> bool:
    wanted = tuple(name.split("/"))
    return path[-len(wanted) :] == wanted


def _checked_name(name: Any) -> str:
    if not isinstance(name, str):
        raise PlanError(f"new= as a mapping takes names of parameters, such as 'kernel'; found {name!r:.80}.")
    return name


def _part(name: str, value: Any) -> Fill:
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        return Constant(float(value))
    fill = strategy(value)
    if fill is split or isinstance(fill, ByName | Finishing):
        raise PlanError(
            f"new= gives {name!r} {value!r:.80}, which concerns a neuron as a whole and not one parameter. Single "
            "parameters may be 'default', 'zeros', 'init', a number, or a function of nas.NewEntries."
        )
    return fill


@dataclass(frozen=True)
class Constant:
    """The same number for every new entry."""

    value: float

    def __call__(self, entries: NewEntries) -> float:
        del entries
        return self.value


STRATEGIES: dict[str, Fill] = {
    "default": keep_function,
    "zeros": zeros,
    "split": split,
    "identity": keep_function,  # an inserted layer starts as the identity; neurons that a width gains keep the function
    "init": initialised,
}


def strategy(new: New) -> Fill:
    """The fill that ``new=`` stands for."""
    if new is None:
        return keep_function
    if isinstance(new, Mapping):
        return ByName.of(new)
    if callable(new):
        return new
    if not isinstance(new, str) or new not in STRATEGIES:
        raise PlanError(
            f"new={new!r} is unknown. It says what parameters of new neurons start at: "
            f"{', '.join(map(repr, STRATEGIES))}, a function of nas.NewEntries, or a mapping from names of parameters "
            "to these."
        )
    return STRATEGIES[new]


@runtime_checkable
class Finishing(Protocol):
    """A fill that needs the new network as a whole: called for every parameter, and once when all are there."""

    def __call__(self, entries: NewEntries) -> Any: ...

    def finish(self, graph: Any, plan: Plan, variables: dict[str, Any]) -> dict[str, Any]:
        """The variables of the new graph, with other values at new positions; the function has to be kept."""


def finished(fill: Fill, graph: Any, plan: Plan, variables: dict[str, Any]) -> dict[str, Any]:
    """What a fill makes of the variables when all are there."""
    return fill.finish(graph, plan, variables) if isinstance(fill, Finishing) else variables


def keeps_function(fill: Fill) -> bool:
    """Whether a network computes the same after its new neurons were filled so."""
    parts = [part for _, part in fill.fills] if isinstance(fill, ByName) else [fill]
    return all(part in (keep_function, zeros, split) or isinstance(part, Finishing) for part in parts)


def generator(key: jax.Array) -> np.random.Generator:
    """A numpy generator seeded by a key; unlike ``jax.random`` it compiles nothing per shape."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel().tolist())


def key_for(rng: Any, path: tuple[str, ...]) -> jax.Array:
    """The key of one parameter: ``rng`` (default ``jax.random.key(0)``) folded with its path."""
    key = jax.random.key(0) if rng is None else rng
    try:
        return jax.random.fold_in(key, zlib.crc32("/".join(path).encode()))
    except (TypeError, ValueError) as error:
        raise PlanError(f"rng= must be one key, such as jax.random.key(0); found {rng!r:.80}.") from error
