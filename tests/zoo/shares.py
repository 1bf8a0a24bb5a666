"""The share of a model's parameters that lie on an axis that can change, and what fixed the rest.

``python tests/zoo/shares.py --out FILE`` measures all models of the zoo, also with another state of the library
on the path.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from revision import revision

from naivenas_jax.transfer.variables import flat


class Shares(NamedTuple):
    """Numbers of parameters.

    Attributes:
      total: all of them.
      frozen: those on no axis that can change, by the reason that the library gives.
    """

    total: int = 0
    frozen: Mapping[str, int] = MappingProxyType({})

    @property
    def free(self) -> float:
        """The share on an axis that can change; of nothing, all."""
        return 1 - sum(self.frozen.values()) / max(self.total, 1)


def shares(graph: Any, variables: Any) -> Shares:
    """Which parameters of an imported model a change of some width can touch."""
    ties, total, reasons = graph.ties, 0, Counter[str]()
    fixed = {axis: all(r in ties.fixed for r in ties.plain(runs)) for axis, runs in ties.axes.items()}
    for path, array in flat(variables["params"]).items():
        total += array.size
        axes = [axis for axis in ties.leaves[("params", *path)].axes if axis is not None]
        if all(fixed[axis] for axis in axes):
            found = [ties.fixed[r] for axis in axes for r in ties.plain(ties.axes[axis]) if r in ties.fixed]
            reasons[(found or ["it lies on no axis"])[0]] += array.size
    return Shares(total, dict(reasons.most_common()))


def percent(share: float) -> str:
    """In tenths, and 100 only if it is all."""
    return "100%" if share == 1 else f"{min(share, 0.999):.1%}"


def compared(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Lines of Markdown: the shares of two states of the library, and what froze the rest of the models of both."""
    names = [name for name in after["models"] if name in before["models"]]
    refused = [name for name in names if "refused" in {**before["models"][name], **after["models"][name]}]
    rows = [
        (name, *(Shares(**state["models"][name]) for state in (before, after))) for name in names if name not in refused
    ]
    counts = [sum((Counter(row[i].frozen) for row in rows), Counter[str]()) for i in (1, 2)]
    total = sum(row[2].total for row in rows)
    free = [percent(1 - sum(count.values()) / total) for count in counts]
    means = [percent(sum(row[i].free for row in rows) / len(rows)) for i in (1, 2)]
    return [
        f"{len(rows)} models with {total:,} parameters. Of these {free[0]} lie on an axis that can change at "
        f"{before['revision']}, {free[1]} at {after['revision']}; in the mean over models {means[0]} and {means[1]}.",
        "",
        *("| what froze the rest | parameters before | after |", "|---|---|---|"),
        *(f"| {reason} | {counts[0][reason]:,} | {counts[1][reason]:,} |" for reason, _ in _most(*counts)),
        "",
        *("| models whose share changed | before | after |", "|---|---|---|"),
        *(f"| {name} | {percent(a.free)} | {percent(b.free)} |" for name, a, b in rows if a.free != b.free),
        *(
            f"| {name} | {_told(before['models'][name])} | {_told(after['models'][name])} |"
            for name in refused
            if before["models"][name] != after["models"][name]
        ),
    ]


def _most(*counts: Counter[str]) -> list[tuple[str, int]]:
    return sum(counts, Counter[str]()).most_common()


def _told(found: dict[str, Any]) -> str:
    return (
        f"not imported: {found['refused']}".replace("|", "/") if "refused" in found else percent(Shares(**found).free)
    )


def main() -> None:
    from models import ZOO  # it needs shares of its own way in

    parser = argparse.ArgumentParser(description="Measure the shares of resizable parameters of the zoo.")
    parser.add_argument("--out", type=Path, required=True, help="where the numbers go, as JSON")
    parser.add_argument("--only", nargs="*", default=[""], help="parts of names")
    parser.add_argument("--new", action="store_true", help="only models that the file does not have yet")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # these packages were written for older versions of JAX and Flax
    found = json.loads(options.out.read_text())["models"] if options.new and options.out.exists() else {}
    for name in (name for name in ZOO if any(part in name for part in options.only) and name not in found):
        try:
            loaded = ZOO[name]()
            with loaded.context():
                found[name] = shares(*loaded.bring())._asdict()
        except Exception as error:  # an older state of the library may refuse a model, which is to be seen
            found[name] = {"refused": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
        print(name, found[name], flush=True)
        options.out.write_text(json.dumps({"revision": revision(), "models": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
