"""The sizes that an edit asks for: every stand-in as wide as its producer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from naivenas_jax.align.align import alignable
from naivenas_jax.align.problem.request import Target
from naivenas_jax.align.problem.restrictions import Restrictions
from naivenas_jax.errors import InfeasibleError
from naivenas_jax.graph.graph import Graph
from naivenas_jax.mutate.request.defaults import kept_ends
from naivenas_jax.mutate.request.options import Options, Way, axes_of, conditions, objectives
from naivenas_jax.mutate.rules.draft import Draft, StandIn

#: By name, each stand-in and the producer that it stands for; None: its slot goes away.
Stands: TypeAlias = Mapping[str, tuple[StandIn, str | None]]


@dataclass(frozen=True, eq=False)
class SizeProblem:
    """What has to hold of the sizes of a staged graph.

    Attributes:
      staged: the graph in which every size fits.
      stands: its stand-ins.
      restrictions: what limits sizes besides its ties.
      ways: the ways of bringing sizes in line that may be tried, in this order.
    """

    staged: Graph
    stands: Stands
    restrictions: Restrictions
    ways: tuple[Way, ...]

    @classmethod
    def of(cls, graph: Graph, draft: Draft, staged: Graph, stands: Stands, options: Options) -> SizeProblem:
        """The problem of an edit.

        Args:
          graph: before the edit.
          draft: the edit.
          staged: its staged graph.
          stands: its stand-ins.
          options: keywords of the verb.
        """
        sizes = staged.ties.sizes
        required, sums = conditions(options.constraints, sizes), objectives(options.minimise, sizes)
        edited = Graph(staged.inputs, [staged[name] for name in draft.outputs])
        restrictions = Restrictions(
            frozen=kept_ends(edited, stands, options.free_outputs, staged.ties),
            reached=staged.ties.reach([*stands, *_sources(stands), *axes_of(required, sums)]),
            conditions=required,
            objectives=sums,
            equal=[(name, source) for name, (_, source) in stands.items() if source],
            least=dict.fromkeys(stands, 0),
            insertable=_insertable(staged, stands, options, graph.ties.sizes),
        )
        return cls(staged, stands, restrictions, options.ways)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to bring in line."""
        return not (self.stands or self.restrictions.conditions or self.restrictions.objectives)

    @property
    def disagree(self) -> bool:
        """Whether a stand-in has another width than its producer."""
        sizes = self.staged.ties.sizes
        return any(source and sizes[source] != stand.width for stand, source in self.stands.values())

    def attempts(self) -> Iterator[tuple[Way, tuple[Target, ...]]]:
        """The ways to try, each with the sizes that it asks for."""
        for way in self.ways:
            wanted = _targets(way, self.stands, self.staged.ties.sizes)
            if wanted is not None:
                yield way, wanted

    def unsolvable(self) -> InfeasibleError | None:
        """Why there are no such sizes, in short; None if there are."""
        ties = self.staged.ties
        solvable = self.empty or any(alignable(ties, wanted, self.restrictions) for _, wanted in self.attempts())
        return None if solvable else no_sizes()


def no_sizes() -> InfeasibleError:
    """The error of an edit for which there are no sizes, without the reasons, which take long to find."""
    return InfeasibleError("No sizes satisfy all ties afterwards.")


def _insertable(staged: Graph, stands: Stands, options: Options, before: Mapping[str, int]) -> dict[str, int]:
    """How many neurons each axis may gain.

    What a wider producer brings along is not counted on the axes that read it: the edit asks for it.
    """
    ties, sizes = staged.ties, staged.ties.sizes
    bounds = options.insertable({axis: size for axis, size in sizes.items() if axis not in stands}, also=before)
    for name, (stand, source) in stands.items():
        brought = sizes[source] - stand.width if source else 0
        for axis in staged.descendants(name) if brought > 0 and name in staged else ():
            bounds[axis] += brought * max((ties.axes[axis].count(run) for run in set(ties.axes[name])), default=0)
    return bounds


def _targets(way: str, stands: Stands, sizes: Mapping[str, int]) -> tuple[Target, ...] | None:
    """What sizes a way asks for; None if it asks for the impossible."""
    wanted: dict[str, Target] = {}
    for name, (stand, source) in stands.items():
        if source is None:
            wanted[name] = Target(name, stand.width, 0)
            continue
        if way == "both":
            continue
        size = (max if way == "grow" else min)(stand.width, sizes[source])
        if size < 1 or wanted.get(source, Target(source, 0, size)).wish != size:
            return None
        wanted[name] = Target(name, stand.width, size)
        wanted[source] = Target(source, sizes[source], size)
    return tuple(wanted.values())


def _sources(stands: Stands) -> list[str]:
    return [source for _, source in stands.values() if source]
