"""The search for the user's model: tries are made, compared with the graph, and the best failure is kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic

from naivenas_jax.graph.model_vertex import Place
from naivenas_jax.progress import waiting
from naivenas_jax.trace.back.candidates import (
    MOST_ATTEMPTS,
    Attempts,
    MakeAttempt,
    ModuleT,
    OutOfTimeError,
    RebuildAttempt,
)
from naivenas_jax.trace.back.compare import Comparison, ModelCall
from naivenas_jax.trace.back.query_rescaling import Rescaling
from naivenas_jax.trace.back.rebuild_errors import Failure
from naivenas_jax.trace.back.source_lines import line_of_equation, line_of_error
from naivenas_jax.typing import Array, PyTree, Variables

#: So many tries are made before those are run that have the right shapes, but are traced to another computation.
_BEFORE_RUNNING = 6


@dataclass(frozen=True)
class Clock:
    """Tells when a time limit is over.

    Attributes:
      limit: in seconds; None: there is none.
    """

    limit: float | None
    _start: float = field(default_factory=time.monotonic)

    def check(self) -> None:
        """Raise `OutOfTimeError` if there is no time left."""
        if self.limit is not None and self.seconds() > self.limit:
            raise OutOfTimeError

    def seconds(self) -> float:
        """How long it has been going."""
        return time.monotonic() - self._start


@dataclass(frozen=True, eq=False)
class _Judged(Generic[ModuleT]):
    """A model that is not traced to the computation of the graph.

    Attributes:
      model: the model.
      failure: what is known of it so far.
      places: what modules take in or return that is not what it is in the graph, as far as that is known.
      runs: whether it has to be run to tell what it computes.
    """

    model: ModuleT
    failure: Failure
    places: Sequence[Place] | None
    runs: bool

    @property
    def wrong(self) -> float:
        """How much goes wrong, to compare tries by."""
        return math.inf if self.places is None else len(self.places)


@dataclass(eq=False)
class RebuildSearch(Generic[ModuleT]):
    """One search.

    Attributes:
      call_of: makes a function of a model.
      unchanged: the user's model; what it says to the new variables is the reason if there is no time to try another.
      wanted: compare models with the graph.
      clock: the time limit.
      rescalings: ways to rescale queries that may be tried.
      failure: why the best try so far is not the right model.
      ended: why the search ended, in words.
    """

    call_of: Callable[[ModuleT], ModelCall]
    unchanged: ModuleT
    wanted: Sequence[Comparison]
    clock: Clock
    rescalings: Sequence[Rescaling] = ()
    failure: Failure | None = None
    ended: str = ""
    _best: tuple[bool, float] = (True, math.inf)
    _waiting: list[_Judged[ModuleT]] = field(default_factory=list)

    def found(self, make: MakeAttempt[ModuleT]) -> tuple[ModuleT, Rescaling | None] | None:
        """The first model that computes what the graph does; None: there is none, and `failure` says why.

        With it comes what its queries are to be multiplied by, if they are.

        What takes long is shown to whoever waits for it.

        Args:
          make: makes an attempt, given decisions.
        """
        with waiting("its numbers") as tell:
            return self._found(make, tell)

    def _found(
        self, make: MakeAttempt[ModuleT], tell: Callable[[str], None]
    ) -> tuple[ModuleT, Rescaling | None] | None:
        attempts = Attempts()
        try:
            for picked in attempts:
                self.clock.check()
                tell(f"{attempts.made} of at most {MOST_ATTEMPTS} ways to choose the sizes")
                attempt = make(picked)
                found, judged = self._judged(attempt)
                if found is not None:
                    return found, None
                places = next((each.places for each in judged if each.places), None)
                blamed = places[0].name if places else self._module_of(attempt, judged)
                attempts.failed(
                    picked, attempt.decisions, blamed, min((each.wrong for each in judged), default=math.inf)
                )
                if attempts.made % _BEFORE_RUNNING == 0 and (ran := self._run()) is not None:
                    return ran
            if (ran := self._run()) is not None:
                return ran
        except OutOfTimeError:
            self.ended = f"time_limit={self.clock.limit:g} was over"
            if self.failure is None and (as_it_was := self._judge(self.unchanged, "")):
                self.failure = as_it_was.failure
        tries = "1 way" if attempts.made == 1 else f"{attempts.made} ways"
        self.ended = f"{tries} to choose the sizes in {self.clock.seconds():.0f} s" + (self.ended and f"; {self.ended}")
        return None

    def _judged(self, attempt: RebuildAttempt[ModuleT]) -> tuple[ModuleT | None, list[_Judged[ModuleT]]]:
        """A model that is traced to the computation of the graph, or what is wrong with each."""
        judged: list[_Judged[ModuleT]] = []
        if attempt.error is not None:
            self._note(raised(attempt.error, attempt.said), math.inf)
        for model in attempt.models:
            each = self._judge(model, attempt.said)
            if each is None:
                return model, []
            judged.append(each)
            self._note(each.failure, each.wrong)
        self._waiting += [each for each in judged if each.runs]
        return None, judged

    def _judge(self, model: ModuleT, said: str) -> _Judged[ModuleT] | None:
        call = self.call_of(model)
        try:
            traced = [(comparison, comparison.traced(call)) for comparison in self.wanted]
        except Exception as error:  # whatever the user's code raises at the new sizes; it becomes the reason
            return _Judged(model, raised(error, said), None, runs=False)
        others = [(comparison, jaxpr) for comparison, jaxpr in traced if not comparison.is_same(jaxpr)]
        if not others:
            return None
        shapes = next(filter(None, (comparison.wrong_shapes(jaxpr) for comparison, jaxpr in others)), None)
        comparison, jaxpr = others[0]
        eqn, places = comparison.first_difference(jaxpr), comparison.differing_places(call)
        line = None if eqn is None else line_of_equation(eqn)
        return _Judged(model, Failure(shapes or "", line, None, said, tuple(places[:1])), places, runs=shapes is None)

    def _run(self) -> tuple[ModuleT, Rescaling | None] | None:
        """A model among those that have to be run that returns what the graph does."""
        waiting, self._waiting = sorted(self._waiting, key=lambda each: each.wrong), []
        for each in waiting:
            for rescaling in (None, *self.rescalings):
                if self._agrees(each, rescaling):
                    return each.model, rescaling
        return None

    def _agrees(self, judged: _Judged[ModuleT], rescaling: Rescaling | None) -> bool:
        """Whether a model returns what the graph does, with variables that are rescaled for the model."""
        call = self.call_of(judged.model)

        def rescaled(variables: Variables, arrays: Sequence[Array]) -> PyTree:
            return call(variables if rescaling is None else rescaling(variables), arrays)

        for comparison in self.wanted:
            self.clock.check()
            try:
                found = comparison.difference(rescaled)
            except Exception as error:  # whatever the user's code raises
                self._note(raised(error, judged.failure.said), math.inf)
                return False
            if found is not None:
                self._note(replace(judged.failure, problem=found), judged.wrong)
                return False
        return True

    def _note(self, failure: Failure, wrong: float) -> None:
        """Keep the failure of the best try: one that runs, and where least is wrong; the first of those."""
        rank = failure.error is not None, wrong
        unsaid = self.failure is not None and not self.failure.problem and self.failure.said == failure.said
        if self.failure is None or rank < self._best or (unsaid and rank == self._best):
            self.failure, self._best = failure, rank

    def _module_of(self, attempt: RebuildAttempt[ModuleT], judged: Sequence[_Judged[ModuleT]]) -> str | None:
        """The path of the module in which an error was raised."""
        failures = [raised(attempt.error, "")] if attempt.error else [each.failure for each in judged]
        return next((f.line.module for f in failures if f.error is not None and f.line is not None), None)


def raised(error: Exception, said: str) -> Failure:
    """What the user's code raised, as the reason why a try failed."""
    return Failure(f"{type(error).__name__}: {error}", line_of_error(error), error, said)
