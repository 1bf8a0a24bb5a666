"""The matrix products and convolutions of an analysed network: how often each runs, and which parts it belongs to."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from naivenas_jax.cost.parts import CONTRACTIONS, Owners, owners
from naivenas_jax.graph.evaluation.name_scopes import computed_in
from naivenas_jax.jaxpr.interpret import Equation, equations
from naivenas_jax.trace.program.frame import Frame

T = TypeVar("T")
S = TypeVar("S")


class PlacedContraction(NamedTuple):
    """One contraction.

    Attributes:
      eqn: the equation.
      frame: the values around it.
      times: how often it runs; in loops of unknown length, once.
      owners: the paths of the parts that it belongs to.
    """

    eqn: Equation
    frame: Frame
    times: int
    owners: Owners


@dataclass(frozen=True)
class Branches(Generic[T]):
    """Several ways to go on, of which one is taken.

    Attributes:
      ways: what each way consists of.
    """

    ways: tuple[tuple[T | Branches[T], ...], ...]


def contractions(
    frame: Frame, times: int = 1, around: Owners = frozenset()
) -> Iterator[PlacedContraction | Branches[PlacedContraction]]:
    """Every contraction in a frame and those inside, in order.

    Args:
      frame: the values of one evaluation of a jaxpr.
      times: how often it is evaluated.
      around: the parts that the evaluation belongs to.
    """
    for eqn in equations(frame.jaxpr):
        if eqn.primitive.name in CONTRACTIONS:
            yield PlacedContraction(eqn, frame, times, owners(eqn, frame, around))
        inside = times * eqn.params.get("length", 1), around.union(computed_in(eqn))
        inner = [tuple(contractions(child, *inside)) for child in frame.inner.get(eqn, ())]
        if eqn.primitive.name == "cond":
            yield Branches(tuple(inner))
        else:
            yield from itertools.chain(*inner)


def mapped(steps: Iterable[T | Branches[T]], function: Callable[[T], S]) -> Iterator[S | Branches[S]]:
    """The same steps and branches, with a function applied to each step."""
    for step in steps:
        if isinstance(step, Branches):
            yield Branches(tuple(tuple(mapped(way, function)) for way in step.ways))
        else:
            yield function(step)


def chosen(
    steps: Iterable[T | Branches[T]], choose: Callable[[list[list[T]]], Iterable[T]] = itertools.chain.from_iterable
) -> Iterator[T]:
    """The steps, with branches resolved.

    Args:
      steps: steps and branches.
      choose: is given the steps of every way of some branches, and returns those that count; by default all.
    """
    for step in steps:
        if isinstance(step, Branches):
            yield from choose([list(chosen(way, choose)) for way in step.ways])
        else:
            yield step
