"""The matrix products and convolutions of an analysed network: how often each runs, and which parts it belongs to."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from naivenas_jax.cost.parts import CONTRACTIONS, Owners, owners
from naivenas_jax.graph.evaluation.name_scopes import computed_in
from naivenas_jax.jaxpr.interpret import Equation, equations
from naivenas_jax.sizes.vector import Vector
from naivenas_jax.trace.program.frame import Frame
from naivenas_jax.trace.program.rules.loop import rounds

T = TypeVar("T")
S = TypeVar("S")


class PlacedContraction(NamedTuple):
    """One contraction.

    Attributes:
      eqn: the equation.
      frame: the values around it.
      times: how often it runs, besides once for each layer; in loops of unknown length, once.
      owners: the paths of the parts that it belongs to.
      layers: the stacks of layers of each of which it runs once.
    """

    eqn: Equation
    frame: Frame
    times: int
    owners: Owners
    layers: tuple[Vector, ...] = ()


@dataclass(frozen=True)
class Branches(Generic[T]):
    """Several ways to go on, of which one is taken.

    Attributes:
      ways: what each way consists of.
    """

    ways: tuple[tuple[T | Branches[T], ...], ...]


def contractions(
    frame: Frame, times: int = 1, around: Owners = frozenset(), layers: tuple[Vector, ...] = ()
) -> Iterator[PlacedContraction | Branches[PlacedContraction]]:
    """Every contraction in a frame and those inside, in order.

    Args:
      frame: the values of one evaluation of a jaxpr.
      times: how often it is evaluated.
      around: the parts that the evaluation belongs to.
      layers: the stacks of layers of each of which it is evaluated once.
    """
    for eqn in equations(frame.jaxpr):
        if eqn.primitive.name in CONTRACTIONS:
            yield PlacedContraction(eqn, frame, times, owners(eqn, frame, around), layers)
        own = rounds(frame, eqn)
        often = (times, (*layers, own)) if isinstance(own, Vector) else (times * own, layers)
        within = around.union(computed_in(eqn))
        inner = [tuple(contractions(child, often[0], within, often[1])) for child in frame.inner.get(eqn, ())]
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
