"""An edited model as a function: the model before is evaluated, and one of its named values replaced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from naivenas_jax.errors import StructureError
from naivenas_jax.graph.model_vertex import ModelEdit, Place
from naivenas_jax.graph.op import select
from naivenas_jax.graph.structure import arrays_in
from naivenas_jax.paths import Path
from naivenas_jax.trace.model.traced_model import Keys, Keywords, Mutable
from naivenas_jax.trace.program.analyse import Analysed
from naivenas_jax.trace.program.frame import Frame, NamedValue
from naivenas_jax.trace.program.module_names import mark, place_of
from naivenas_jax.trace.program.rebind import Watch
from naivenas_jax.trace.program.rules.call import INLINED
from naivenas_jax.transfer.variables import flat, flat_mappings, nested
from naivenas_jax.typing import Array, PyTree, Shape, Variables


@dataclass(eq=False)
class EditedEvaluation:
    """One evaluation of an edited model: called with each named value, it returns the value to go on with.

    Attributes:
      edit: what is computed, from which values, and which value it replaces.
      variables: the variables of the edit's piece; what the piece updates is written back.
      rngs: keys by stream.
      mutable: the collections that may be updated, as Flax takes them.
      kwargs: the keyword arguments of the model.
      updates: what the piece has updated, by path.
    """

    edit: ModelEdit
    variables: Variables
    rngs: Keys
    mutable: Mutable
    kwargs: Keywords
    updates: dict[Path, PyTree] = field(default_factory=dict)
    _seen: dict[tuple[int, Place | None], jax.Array] = field(default_factory=dict)

    def __call__(self, name: str, frame: Frame, array: jax.Array) -> jax.Array:
        """The value that takes the place of a named one. Values keep their names, so that they can be edited again."""
        place = place_of(name, array.ndim)
        if place != self.edit.at:
            self._seen[id(frame), place] = array = checkpoint_name(array, name)
            return array
        if place in self.edit.reads:  # otherwise it is what a removed module returned, and nobody may find it
            self._seen[id(frame), place] = checkpoint_name(array, name)
        made = self._named([self._seen[id(frame), read] for read in self.edit.reads])
        if made.shape != array.shape:
            raise StructureError(
                f"{str(place).capitalize()} has the shape {array.shape}, and what takes its place {made.shape}. "
                "Everything that reads it expects the shape that it had."
            )
        return made.astype(array.dtype)

    def _named(self, arrays: Sequence[jax.Array]) -> jax.Array:
        """What the piece computes. The output of an inserted layer is a place, and its input if the layer is alone."""
        (last,) = self.edit.piece.outputs
        if len(arrays) > 1 or last in self.edit.piece.inputs:
            return self._computed(arrays)
        if last.inputs == self.edit.piece.inputs:
            arrays = [mark(arrays[0], Place(last.name, "in"))]
        return mark(self._computed(arrays), Place(last.name, "out"))

    def _computed(self, arrays: Sequence[jax.Array]) -> jax.Array:
        """What the piece computes; its updates are written down."""
        piece, kwargs = self.edit.piece, dict(self.kwargs)
        if "deterministic" in kwargs:  # many models say it for the opposite of train
            kwargs.setdefault("train", not kwargs["deterministic"])
        known = None if piece.keywords is None else piece.keywords | {"train"}
        given = {"rngs": dict(self.rngs) or None, **select(kwargs, known)}
        current = nested({**flat(self.variables), **self.updates})
        made: jax.Array
        if not self.mutable:
            made = piece.apply(current, *arrays, **given)
            return made
        mutable = list(self.mutable) if isinstance(self.mutable, tuple) else self.mutable
        made, updates = piece.apply(current, *arrays, mutable=mutable, **given)
        self.updates |= flat_mappings(updates)
        return made


class Evaluated(Protocol):
    """A model that can be evaluated with the values inside that have names replaced."""

    def computed(
        self,
        variables: Mapping[Path, Array],
        inputs: Sequence[Array | Shape],
        rngs: Keys,
        mutable: Mutable,
        kwargs: Keywords,
        hook: Watch | None = None,
    ) -> tuple[PyTree, dict[Path, PyTree]]:
        """Outputs, and updated variables by path."""


@dataclass(frozen=True, eq=False)
class EditedModel:
    """A model after an edit; see `ModelFunction`.

    Attributes:
      model: the model before.
      keywords: the keyword arguments that the model before names.
      edit: what is changed.
      before: the variables of the model before, with their present shapes. The edited model may be called without those
        of them that nothing depends on any more.
    """

    model: Evaluated
    keywords: frozenset[str]
    edit: ModelEdit
    before: Mapping[Path, Shape]

    @property
    def identity(self) -> tuple[Evaluated, ModelEdit]:
        """What it is equal by: the model before, and the edit."""
        return self.model, self.edit

    def __call__(
        self, variables: Variables, inputs: PyTree, rngs: Keys, mutable: Mutable, kwargs: Keywords
    ) -> tuple[PyTree, Variables]:
        """Outputs, and the variables that changed."""
        known, before = flat(variables), self.before
        own = {path: known[path] if path in known else jnp.zeros(s.shape, s.dtype) for path, s in before.items()}
        added = nested({path: array for path, array in known.items() if path not in before})
        hook = EditedEvaluation(self.edit, added, rngs, mutable, kwargs)
        # the model before may know no training, and a layer that the edit inserts may
        given = {key: value for key, value in kwargs.items() if key != "train" or key in self.keywords}
        outputs, updates = self.model.computed(own, arrays_in(inputs), rngs, mutable, given, hook)
        kept = {path: value for path, value in updates.items() if path in known or path not in before}
        return outputs, nested({**kept, **hook.updates})


def late(where: Place, reads: Sequence[Place], places: Mapping[Place, Sequence[NamedValue]]) -> StructureError | None:
    """Why an edit cannot read what it would; None if all of it has been computed whenever the edit computes.

    Args:
      where: the place whose value the edit replaces.
      reads: the places whose values it reads.
      places: where the model computes the value at each place, once for each time.
    """
    for read in reads:
        for at in places[where]:
            if not any(one.before(at) for one in places[read]):
                return StructureError(
                    f"{str(where).capitalize()} cannot be computed from {read}, which the model computes later, or "
                    "inside a loop, branch or transformed call that the other is not in."
                )
    return None


def check_updates(edit: ModelEdit, added: Variables, model: Analysed) -> None:
    """Raise if the piece updates variables, and is computed where an update cannot leave.

    Args:
      edit: what is changed.
      added: the variables of its piece. All but the parameters may be updated.
      model: the model before.

    Raises:
      StructureError: names the place, the collections, and the loop, branch or call.
    """
    updated = sorted({path[0] for path in flat(added)} - {"params"})
    if not updated:
        return
    for at in model.places[edit.at]:
        for eqn in model.frame.around(at.frame) or ():
            if eqn.primitive.name not in INLINED:
                raise StructureError(
                    f"{str(edit.at).capitalize()} is computed inside a loop, branch or transformed call "
                    f"({eqn.primitive.name}), and what is to be put there has variables that are updated "
                    f"({', '.join(updated)}): the updates could not leave. Put a layer there that has only parameters, "
                    "such as nn.LayerNorm in place of nn.BatchNorm, or change a module outside."
                )
