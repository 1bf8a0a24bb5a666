"""What a mutation says of its own accord about axes on which zero is not the same as absent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from naivenas_jax.mutate.result.mutation import Mutation
from naivenas_jax.paths import is_unnamed


def with_coupled_changes(mutation: Mutation) -> Mutation:
    """The mutation with a note for every reason for which an axis that it changed is coupled."""
    notes = [note for note in _notes(mutation) if note not in mutation.notes]
    return replace(mutation, notes=(*mutation.notes, *notes)) if notes else mutation


def _notes(mutation: Mutation) -> Iterator[str]:
    names = mutation.plan.renamed
    changed = [names.get(axis, axis) for axis in mutation.plan.changed]
    axes: dict[str, list[str]] = {}
    for axis, reason in mutation.before.ties.changed_coupled(changed).items():
        axes.setdefault(reason, []).extend([] if is_unnamed(axis) else [repr(axis)])
    for reason, named in axes.items():
        where = ", ".join(named) or "an axis that has no name"
        yield f"coupled, so that what stays computes something else than before: {where} ({reason})"
