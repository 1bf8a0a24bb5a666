"""An edited model as a function: the model before is evaluated, and one of its named values replaced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from naivenas_jax.errors import StructureError
from naivenas_jax.graph.model_vertex import ModelEdit, Place
from naivenas_jax.graph.op import select
from naivenas_jax.paths import Path
from naivenas_jax.trace.model.call_arguments import Arguments
from naivenas_jax.trace.model.imported_model import ModelFunction
from naivenas_jax.trace.program.analysis import Frame, Named
from naivenas_jax.trace.program.module_names import mark, place_of
from naivenas_jax.transfer.variables import flat, nested

if TYPE_CHECKING:
    from naivenas_jax.trace.model.model_op import Imported


@dataclass(eq=False)
class Watch:
    """Looks at the named values of one evaluation, and puts what the edit computes in the place of one.

    Attributes:
      edit: what is watched for.
      variables: of the piece, nested; what it updates is written back.
      rngs: keys by stream.
      mutable: as of `flax`.
      kwargs: of the model.
      updates: what the piece has updated, by path.
    """

    edit: ModelEdit
    variables: Mapping[str, Any]
    rngs: Mapping[str, Any]
    mutable: Any
    kwargs: Mapping[str, Any]
    updates: dict[Path, Any] = field(default_factory=dict)
    _seen: dict[tuple[int, Place | None], Any] = field(default_factory=dict)

    def __call__(self, name: str, frame: Frame, array: Any) -> Any:
        """The value that takes the place of a named one. Names stay, for further edits."""
        place = place_of(name, array.ndim)
        if place != self.edit.at:
            self._seen[id(frame), place] = array = checkpoint_name(array, name)
            return array
        if place in self.edit.reads:  # else it is the end of a module that is gone
            self._seen[id(frame), place] = checkpoint_name(array, name)
        made = self._named([self._seen[id(frame), read] for read in self.edit.reads])
        if made.shape != array.shape:
            raise StructureError(
                f"{str(place).capitalize()} has the shape {array.shape}, and what takes its place {made.shape}. "
                "Everything that reads it expects the shape that it had."
            )
        return made.astype(array.dtype)

    def _named(self, arrays: Sequence[Any]) -> Any:
        """What the piece computes. The end of an inserted layer is a place, and its start if it is a single layer."""
        (last,) = self.edit.piece.outputs
        if len(arrays) > 1 or last in self.edit.piece.inputs:
            return self._computed(arrays)
        if last.inputs == self.edit.piece.inputs:
            arrays = [mark(arrays[0], Place(last.name, "in"))]
        return mark(self._computed(arrays), Place(last.name, "out"))

    def _computed(self, arrays: Sequence[Any]) -> Any:
        piece, kwargs = self.edit.piece, dict(self.kwargs)
        if "deterministic" in kwargs:  # what many models call the opposite
            kwargs.setdefault("train", not kwargs["deterministic"])
        known = None if piece.keywords is None else piece.keywords | {"train"}
        given = {"rngs": dict(self.rngs) or None, **select(kwargs, known)}
        current = nested({**flat(self.variables), **self.updates})
        if not self.mutable:
            return piece.apply(current, *arrays, **given)
        mutable = list(self.mutable) if isinstance(self.mutable, tuple) else self.mutable
        made, updates = piece.apply(current, *arrays, mutable=mutable, **given)
        self.updates |= flat(updates)
        return made


def edited_function(op: Imported, edit: ModelEdit, before: Mapping[Path, jax.ShapeDtypeStruct]) -> ModelFunction:
    """The edited model.

    Args:
      op: the model before.
      edit: what is done to it.
      before: its variables, at their present shapes. Those that the function is not given are not needed any more.
    """

    def function(
        variables: Any, inputs: Any, rngs: Mapping[str, Any], mutable: Any, kwargs: Mapping[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        known = flat(variables)
        own = {path: known[path] if path in known else jnp.zeros(s.shape, s.dtype) for path, s in before.items()}
        added = nested({path: array for path, array in known.items() if path not in before})
        watch = Watch(edit, added, rngs, mutable, kwargs)
        # a model that knows no training may have got layers that do
        given = {key: value for key, value in kwargs.items() if key != "train" or key in op.model.named}
        outputs, updates = op.computed(own, Arguments.split(inputs)[1], rngs, mutable, given, watch)
        kept = {path: value for path, value in updates.items() if path in known or path not in before}
        return outputs, nested({**kept, **watch.updates})

    return function


def check_order(where: Place, reads: Sequence[Place], places: Mapping[Place, Sequence[Named]]) -> None:
    """Raise unless whatever an edit reads has been computed whenever it is needed.

    Raises:
      StructureError: names what comes too late, or lies in a loop.
    """
    for read in reads:
        for at in places[where]:
            if not any(one.frame is at.frame and one.position <= at.position for one in places[read]):
                raise StructureError(
                    f"{str(where).capitalize()} cannot be computed from {read}, which the model computes later, or "
                    "inside a loop, branch or transformed call that the other is not in."
                )
