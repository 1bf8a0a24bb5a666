"""The entries of a history as JSON, and back."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from naivenas_jax.align.plan import Plan
from naivenas_jax.checks import as_whole
from naivenas_jax.errors import NaiveNASError, PlanError
from naivenas_jax.search.lineage.history_entry import HistoryEntry, Value, values_of

_FORMAT = "naivenas_jax.History/1"


def to_json(entries: Mapping[str, HistoryEntry]) -> str:
    """Text that `from_json` reads. Numbers that JSON does not have are written as ``{"float": "nan"}``."""
    return json.dumps({"format": _FORMAT, "entries": [_written(entry) for entry in entries.values()]}, allow_nan=False)


def _written(entry: HistoryEntry) -> dict[str, object]:
    return {
        "name": entry.name,
        "parents": list(entry.parents),
        "kind": entry.kind,
        "change": entry.change,
        "sizes": dict(entry.sizes),
        "parameters": entry.parameters,
        "values": {key: _number(value) for key, value in entry.values.items()},
        "notes": list(entry.notes),
        "plan": json.loads(entry.plan.to_json()),
    }


def _number(value: Value) -> object:
    return {"float": str(value)} if isinstance(value, float) and not math.isfinite(value) else value


def from_json(text: str) -> dict[str, HistoryEntry]:
    """Entries by name, as `to_json` wrote them.

    Raises:
      PlanError: if it did not, or what they say contradicts itself.
    """
    try:
        data = json.loads(text)
        if data["format"] != _FORMAT:
            raise ValueError(f"its format is {data['format']!r:.80}, not {_FORMAT!r}")
        entries: dict[str, HistoryEntry] = {}
        for each in data["entries"]:
            entry = _read(each)
            if entry.name in entries or not entries.keys() >= set(entry.parents):
                raise ValueError(f"{entry.name!r} occurs twice, or before its parents")
            entries[entry.name] = entry
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError, NaiveNASError) as error:
        if isinstance(error, KeyError) and not isinstance(error, NaiveNASError):
            error = ValueError(f"{error} is missing")
        raise PlanError(f"This is not a history written by History.to_json: {error!s:.300}.") from error
    return entries


def _read(data: Mapping[str, Any]) -> HistoryEntry:
    plan = Plan.from_json(json.dumps(data["plan"]))
    name, sizes, parameters = data["name"], dict(data["sizes"]), data["parameters"]
    words = [name, data["kind"], data["change"], *data["parents"], *data["notes"], *sizes]
    if not all(isinstance(word, str) for word in words) or not name:
        raise ValueError(f"entry {name!r:.80} has something else where words have to be")
    if parameters is not None and as_whole(parameters) is None:
        raise ValueError(f"the parameters of {name!r:.80} are no number")
    for axis, size in sizes.items():
        if as_whole(size) is None or axis not in plan.axes or plan.axes[axis].after != size:
            raise ValueError(f"the size of {axis!r:.80} in {name!r:.80} is not the one after its plan")
    return HistoryEntry(
        name=name,
        parents=tuple(data["parents"]),
        kind=data["kind"],
        change=data["change"],
        sizes=sizes,
        parameters=parameters,
        values=values_of({key: _value(value) for key, value in data["values"].items()}),
        notes=tuple(data["notes"]),
        plan=plan,
    )


def _value(written: object) -> object:
    return float(written["float"]) if isinstance(written, dict) else written
