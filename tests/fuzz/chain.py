"""Chains of random mutations, every step of which is checked; and how a chain that fails is made shorter."""

from __future__ import annotations

import re
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any

import jax
import numpy as np
from imported import linen, of_nnx
from mutations import VERBS, WIDTHS, Call, random_verb
from promises import (
    ADAM,
    BrokenPromiseError,
    check_fresh_shapes,
    check_function,
    check_import,
    check_jit,
    check_library_oracle,
    check_plan,
    check_state,
    check_undo,
    inputs_after,
    paths,
    require,
    traced,
)
from subject import Subject, rng_of
from vertex_grammar import vertices

import naivenas_jax as nas

#: What chains start from.
GRAMMARS: dict[str, Callable[[int, tuple[int, ...]], Subject]] = {
    "vertices": vertices,
    "linen": linen,
    "nnx": of_nnx,
}


@dataclass(frozen=True)
class Recipe:
    """All that a chain depends on.

    Attributes:
      seed: of every random choice.
      blocks: the numbers of the blocks of the network.
      steps: the numbers of the steps: each depends on its number and on the network at that time.
    """

    seed: int
    blocks: tuple[int, ...]
    steps: tuple[int, ...]

    @classmethod
    def of(cls, seed: int) -> Recipe:
        rng = rng_of(seed, "recipe")
        return cls(seed, tuple(range(rng.randint(3, 8))), tuple(range(rng.randint(10, 30))))

    @property
    def kind(self) -> str:
        return list(GRAMMARS)[self.seed % len(GRAMMARS)]

    @property
    def command(self) -> str:
        """What makes the chain again."""
        numbers = lambda values: ",".join(map(str, values)) or "none"  # noqa: E731
        return f"nox -s fuzz -- --seed {self.seed} --blocks {numbers(self.blocks)} --steps {numbers(self.steps)}"


@dataclass(frozen=True)
class Find:
    """A broken promise.

    Attributes:
      recipe: of the chain.
      step: the number of the step.
      verb: the verb of the step; "" for the import.
      error: what was raised.
      about: the network and the mutations so far, in words.
    """

    recipe: Recipe
    step: int
    verb: str
    error: BaseException
    about: tuple[str, ...] = ()

    @property
    def kind(self) -> tuple[str, str, str]:
        """What two chains that fail alike have in common: the kind of error and where it was raised."""
        frames = traceback.extract_tb(self.error.__traceback__)
        ours = [f for f in frames if "naivenas_jax/" in f.filename]
        where = f"{ours[-1].filename.split('/')[-1]}:{ours[-1].name}" if ours else ""
        what = getattr(self.error, "promise", "") or re.sub(r"[\d.'\"]+|\w+/\w+", "", str(self.error))[:40]
        return type(self.error).__name__, where if not isinstance(self.error, BrokenPromiseError) else "", what


@dataclass
class Chain:
    """A network that is mutated again and again, and what comes along."""

    recipe: Recipe
    subject: Subject
    graph: nas.Graph
    variables: Any
    inputs: tuple[np.ndarray, ...]
    trace: Any
    state: Any
    marks: Any
    mutations: list[nas.Mutation] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    verb: str = ""
    last: nas.Mutation | None = None

    @classmethod
    def start(cls, recipe: Recipe) -> Chain:
        subject = GRAMMARS[recipe.kind](recipe.seed, recipe.blocks)
        graph, variables = subject.graph, subject.variables
        trace = traced(graph, variables, subject.inputs, subject.join, **draws(subject))
        check_import(subject, trace)
        return cls(recipe, subject, graph, variables, subject.inputs, trace, some_state(variables), numbered(variables))

    def step(self, number: int) -> None:
        """One mutation, checked; or a refusal by an error of ours, which leaves all as it was."""
        rng = rng_of(self.recipe.seed, "step", number)
        self.verb = random_verb(rng)
        call = Call(self.graph, self.variables, self.subject.join(self.inputs), rng, number)
        copies = [np.array(leaf) for leaf in jax.tree.leaves(self.variables)]
        try:
            mutation = VERBS[self.verb](call)
        except nas.InternalError:
            raise
        except nas.NaiveNASError as error:
            self.seen["refused"] += 1
            self.seen[f"refused: {self.verb}: {type(error).__name__}"] += 1
            mutation = None
        for leaf, copy in zip(jax.tree.leaves(self.variables), copies, strict=True):
            require(np.array_equal(leaf, copy, equal_nan=True), "untouched", "the variables before the change")
        if mutation is not None and self.check(mutation, rng.random):
            self.take(mutation)

    def check(self, mutation: nas.Mutation, chance: Callable[[], float]) -> bool:
        """Whether the step can be gone on from."""
        self.last = mutation
        graph, variables = mutation
        check_plan(mutation)
        inputs = inputs_after(mutation, self.inputs)
        try:
            trace = traced(graph, variables, inputs, self.subject.join, **draws(self.subject))
        except Exception as error:
            if self.verb not in WIDTHS and not is_ours(error):
                self.seen["positions do not fit"] += 1  # edits are tried on shapes only where inputs= are given
                return False
            raise
        outcome = check_function(mutation, self.trace, trace, self.inputs, inputs, self.subject.silent)
        self.seen[outcome] += 1
        if self.subject.kind == "vertices" and chance() < 0.3:
            check_fresh_shapes(mutation, inputs)
        if chance() < 0.03:
            check_jit(graph, variables, inputs, trace, self.subject, chance() < 0.5)
        if chance() < 0.06:
            check_library_oracle(mutation, self.inputs, self.subject, outcome)
        if chance() < 0.5:
            check_undo(mutation)
        self.inputs, self.trace = inputs, trace
        return True

    def take(self, mutation: nas.Mutation) -> None:
        self.state = check_state(mutation, self.state)
        zeros = jax.tree.map(lambda x: np.zeros(np.shape(x)), mutation.variables)
        # "params" says what the marks are: alone, params are taken for gradients, and with statistics for parameters
        self.marks = mutation.carry(self.marks, fresh=zeros, new="params")
        self.graph, self.variables = mutation
        self.mutations.append(mutation)
        self.seen["mutations"] += 1
        self.seen[f"done: {self.verb}"] += 1

    def end(self) -> None:
        """All plans together, through JSON, carry as they do one after another; undoing all gives the beginning."""
        if not self.mutations:
            return
        self.verb = "end"
        check_jit(self.graph, self.variables, self.inputs, self.trace, self.subject, self.recipe.seed % 2 == 0)
        plans = [nas.Plan.from_json(mutation.plan.to_json()) for mutation in self.mutations]
        try:
            plan = reduce(lambda earlier, later: later @ earlier, plans)
        except nas.PlanError as error:
            self.seen[f"not composed: {str(error)[:40]}"] += 1
            return
        plan = nas.Plan.from_json(plan.to_json())
        last = replace(
            self.mutations[-1], plan=plan, variables_before=self.subject.variables, before=self.subject.graph
        )
        zeros = jax.tree.map(lambda x: np.zeros(np.shape(x)), self.variables)
        at_once = last.carry(numbered(self.subject.variables), fresh=zeros, new="params")
        for path, marks in paths(self.marks).items():
            require(np.allclose(paths(at_once)[path], marks, rtol=1e-5), "composition", f"{path}")
        variables = self.variables
        for mutation in reversed(self.mutations):
            graph, variables = mutation.undo(variables)
            require(graph == mutation.before, "undo", "another graph")
        for path, array in paths(self.subject.variables).items():
            require(np.allclose(array, paths(variables)[path], rtol=1e-4, atol=1e-6), "undo of all", f"{path}")


def is_ours(error: BaseException) -> bool:
    return isinstance(error, nas.NaiveNASError | BrokenPromiseError)


def draws(subject: Subject) -> dict[str, Any]:
    return {"rngs": dict(subject.draws)} if subject.draws else {}


def some_state(variables: Any) -> Any:
    """The state of Adam in the middle of training."""
    generator = np.random.default_rng(0)
    shapes = jax.eval_shape(ADAM.init, variables.get("params", {}))
    return jax.tree.map(lambda x: np.asarray(generator.uniform(1, 9, x.shape)).astype(x.dtype), shapes)


def numbered(variables: Any) -> Any:
    """1, 2, 3, ... through all entries."""
    leaves, treedef = jax.tree.flatten(variables)
    starts = np.cumsum([1, *(np.size(leaf) for leaf in leaves)])
    rows = [np.arange(np.size(x)).reshape(np.shape(x)) + float(n) for x, n in zip(leaves, starts, strict=False)]
    return treedef.unflatten(rows)


def run(recipe: Recipe) -> tuple[Counter[str], Find | None]:
    """A whole chain: what was seen, and what was found, if anything."""
    chain, number = None, -1
    try:
        chain = Chain.start(recipe)
        for number in recipe.steps:
            chain.step(number)
        chain.end()
    except Exception as error:
        verb = chain.verb if chain else "start"
        about = (chain.subject.described, *map(repr, chain.mutations), repr(chain.last)) if chain else ()
        return chain.seen if chain else Counter(), Find(recipe, number, verb, error, about)
    return chain.seen, None


def shorter(find: Find, seconds: float = 60.0) -> Find:
    """The same find with as few steps and blocks as are found in that time: each is left out in turn."""
    until = time.process_time() + seconds
    if find.step >= 0 and find.verb != "end":
        at = find.recipe.steps.index(find.step) + 1
        find = again(replace(find.recipe, steps=find.recipe.steps[:at]), find) or find
    progress = True
    while progress:
        progress = False
        for recipe in smaller(find.recipe):
            if time.process_time() > until:
                return find
            if found := again(recipe, find):
                find, progress = found, True
                break
    return find


def smaller(recipe: Recipe) -> Iterator[Recipe]:
    """Half of the steps, then one less; the same with blocks."""
    for half in (slice(None, None, 2), slice(1, None, 2)):
        if len(recipe.steps) > 3:
            yield replace(recipe, steps=recipe.steps[half])
    for name in ("steps", "blocks"):
        numbers = getattr(recipe, name)
        for i in range(len(numbers)):
            yield replace(recipe, **{name: numbers[:i] + numbers[i + 1 :]})


def again(recipe: Recipe, find: Find) -> Find | None:
    """A find of the same kind by another recipe."""
    _, found = run(recipe)
    return found if found is not None and found.kind == find.kind else None
