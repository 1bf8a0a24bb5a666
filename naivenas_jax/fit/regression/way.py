"""A way through a changed network: what is re-fitted, one after the other, with the loops or without them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TypeAlias

from naivenas_jax.fit.network.network import Runs
from naivenas_jax.fit.regression.fitting import Fitting, Statistic, Weight
from naivenas_jax.fit.regression.loops.loop_fitting import LoopFitting
from naivenas_jax.fit.regression.loops.loop_stages import Loops
from naivenas_jax.paths import Path
from naivenas_jax.typing import PyTree, Variables

#: What is re-fitted in one go.
Stage: TypeAlias = Weight | Statistic | LoopFitting


@dataclass(frozen=True, eq=False)
class Way:
    """What is re-fitted on the way through a network.

    Attributes:
      fitting: both networks on the data. Two ways have other variables on the way, and so activations of their own.
      stages: what is re-fitted, in the order of evaluation.
    """

    fitting: Fitting
    stages: tuple[Stage, ...]

    @classmethod
    def without_loops(cls, fitting: Fitting, statistics: bool) -> Way:
        """Weights outside of loops and, if these are wanted, batch statistics."""
        return cls(fitting, tuple(stage for stage in fitting.stages() if statistics or isinstance(stage, Weight)))

    def with_loops(self) -> Way:
        """The same with the loops that read other neurons, and with all loops behind the first step that is fitted."""
        own = replace(self.fitting, runs=Runs(self.fitting.runs.data, self.fitting.runs.networks))
        steps = [_step(stage) for stage in self.stages]
        every, loops = Loops(own.mutation, own.networks), list[LoopFitting]()
        for number, loop in enumerate(every.of(own.runs.data.first)):
            if loops or loop.reads_others or any(step <= loop.body.position for step in steps):
                before = own.mutation.variables_before
                loops.append(
                    LoopFitting(every, number, own.runs, before, own.weights, own.ridge, own.memory, own.notes)
                )
        return Way(own, tuple(sorted([*loops, *self.stages], key=_step)))

    @property
    def loops(self) -> list[LoopFitting]:
        """The loops that are re-fitted."""
        return [stage for stage in self.stages if isinstance(stage, LoopFitting)]

    @property
    def paths(self) -> frozenset[Path]:
        """The variables that are re-fitted, without shifts."""
        return frozenset(path for stage in self.stages for path in _paths(stage))

    def refitted(self, variables: Variables, stage: Stage) -> dict[str, PyTree]:
        """The variables, with what one stage is about fitted anew."""
        if isinstance(stage, LoopFitting):
            return stage.refitted(variables)
        if isinstance(stage, Statistic):
            return self.fitting.restandardised(variables, stage)
        return self.fitting.refitted(variables, stage)


def ways_of(fitting: Fitting, statistics: bool) -> list[Way]:
    """With loops and without them; where there is none to be fitted, these are one way.

    Args:
      fitting: both networks on the data.
      statistics: whether batch statistics are estimated again.
    """
    without = Way.without_loops(fitting, statistics)
    every = without.with_loops()
    return [every, without] if every.loops else [without]


def _step(stage: Stage) -> int:
    return stage.loop.body.position if isinstance(stage, LoopFitting) else stage.step


def _paths(stage: Stage) -> Collection[Path]:
    return stage.loop.paths if isinstance(stage, LoopFitting) else [stage.path]
