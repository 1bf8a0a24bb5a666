"""What every model of the zoo has to go through."""

from __future__ import annotations

import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from models import ZOO, Loaded
from numpy_evaluation import evaluate
from own_model import UNREAD, as_numbers, far, without
from shares import Shares, shares

import naivenas_jax as nas
from naivenas_jax.jaxpr.primitive_tables import FROZEN
from naivenas_jax.mutate.result import oracle
from naivenas_jax.trace.program.analysis import TIES

#: So many axes of a model in a test, each shrunk once and grown once.
MOST = 6
#: Differences below this, relative to the largest output, are rounding: some primitives are JAX's, in single precision.
CLOSE = 1e-4
#: Seconds that `rebuild` may search for the numbers of the user's class.
REBUILD = 30


@dataclass
class Row:
    """What came out for one model.

    Attributes:
      kind: how it was imported: linen, nnx or function.
      handles: how many it has.
      axes: how many can change by themselves: handles without a neuron in common.
      tried: how many of them were changed.
      shares: of its parameters, those on an axis that can change, and what fixed the others.
      seconds: CPU time of the import.
      exact: whether the graph computes what the model does.
      shrinks: how many were made and evaluated.
      growths: likewise.
      gradients: how many of the changed models were differentiated, the first shrink and a growth.
      masked: how many shrinks the oracle of the library compared with the masked original.
      own: how many of these were also compared with the user's own model, where those neurons are dead.
      felt: how many of them changed the outputs at all.
      kept: how many growths were compared with the original, and compute the same.
      rebuilt: whether the user's own class with the sizes of the first shrink came back: yes, no, or not asked.
      refused: why it did not.
      why: why shrinks could not be compared, and how many; likewise with the user's own model.
      problems: what went wrong.
      at: the state of the library that it was measured with.
      version: of the model's package.
    """

    name: str
    kind: str = ""
    handles: int = 0
    axes: int = 0
    tried: int = 0
    shares: Shares = field(default_factory=Shares)
    seconds: float = 0.0
    exact: bool = False
    shrinks: int = 0
    growths: int = 0
    gradients: int = 0
    masked: int = 0
    own: int = 0
    felt: int = 0
    kept: int = 0
    rebuilt: str = ""
    refused: str = ""
    why: Counter[str] = field(default_factory=Counter)
    why_not_own: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    at: str = ""
    version: str = ""


def exercise(name: str, most: int | None = MOST) -> Row:
    """Import one model of the zoo, shrink and grow each of its axes, at most so many of them, and compare."""
    try:
        loaded = ZOO[name]()
    except ModuleNotFoundError:
        raise  # its package is not installed, which is no fault
    except Exception as error:  # the table is to show what happened
        return Row(name, problems=[short("the model itself", error)])
    return exercise_loaded(name, loaded, most)


def exercise_loaded(name: str, loaded: Loaded, most: int | None) -> Row:
    """The same for a model that is there already."""
    row = Row(name, loaded.kind)
    with loaded.context(), jax.default_matmul_precision("highest"):
        try:
            start = time.process_time()
            graph, variables = loaded.bring()
            row.seconds = time.process_time() - start
            row.handles, row.shares = len(graph.handles()), shares(graph, variables)
            _guard(row, loaded, variables)
            _mutate(row, loaded, graph, variables, most)
        except Exception as error:
            row.problems.append(short("import", error))
    return row


def _guard(row: Row, loaded: Loaded, variables: Any) -> None:
    """Every primitive is in the table of rules, or is left fixed for a reason that is written down."""
    used = set(primitives(jax.make_jaxpr(loaded.function)(variables, *loaded.inputs).jaxpr))
    if unknown := used - set(TIES) - set(FROZEN):
        row.problems.append(f"the table of primitives does not know {', '.join(sorted(unknown))}")


def primitives(jaxpr: Any) -> Iterator[str]:
    """The names of all primitives in a jaxpr and those inside it."""
    for eqn in jaxpr.eqns:
        yield eqn.primitive.name
        for value in eqn.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                    yield from primitives(getattr(inner, "jaxpr", inner))


class Subject(NamedTuple):
    """An imported model, and what is compared with it.

    Attributes:
      own: the user's own model, of (variables, inputs), in numpy.
      before: what it returns.
    """

    loaded: Loaded
    graph: Any
    variables: Any
    own: Callable[..., list[np.ndarray]]
    before: list[np.ndarray]

    @property
    def arrays(self) -> list[Any]:
        """The inputs, one by one."""
        return jax.tree.leaves(self.loaded.inputs)


def computed(function: Callable[..., Any], *arguments: Any) -> list[np.ndarray]:
    """What a function returns, in numpy and double precision: a trace is cheap, and what is compiled would run once."""
    return evaluate(jax.make_jaxpr(function)(*arguments), *arguments)


def _mutate(row: Row, loaded: Loaded, graph: Any, variables: Any, most: int | None) -> None:
    traced = jax.make_jaxpr(loaded.function)(variables, *loaded.inputs)
    own = partial(evaluate, traced)
    subject = Subject(loaded, graph, variables, own, own(variables, *loaded.inputs))
    row.exact = far(subject.before, computed(graph.apply, variables, *subject.arrays)) <= 1e-5
    if not row.exact:
        row.problems.append("the graph differs from the model")
    rng = np.random.default_rng(zlib.crc32(row.name.encode()))
    handles = inner(graph)
    row.axes, row.tried = len(handles), len(handles[:most])
    for handle in [handles[i] for i in rng.permutation(len(handles))][:most]:
        for sign in (-1, 1):
            change = sign * int(rng.integers(1, max(2, handle.size // 3)))
            try:
                mutation = nas.delta_nout(graph, variables, {handle.name: nas.relaxed(change)})
                if _dropped(mutation) != (change < 0) or not mutation.plan.changed:
                    row.why["has no other size near the one that was asked for, or only a larger one"] += 1
                    continue
                row.shrinks, row.growths = row.shrinks + (change < 0), row.growths + (change > 0)
                _one(row, _in_words_of_both(subject, mutation), mutation)
            except Exception as error:
                row.problems.append(short(f"{handle.name} {change:+d}", error))
    if handles and row.gradients < 2:
        row.problems.append("not differentiated")


def _in_words_of_both(subject: Subject, mutation: Any) -> Subject:
    """Where a vocabulary changed, the inputs hold words that both networks know."""
    ties, plan = mutation.before.ties, mutation.plan
    sizes = [plan.axes[axis].after for axis in {ties.index_axis(run) for run in ties.indexed} & plan.changed.keys()]
    if not sizes:
        return subject
    known = lambda x: x % min(sizes) if jnp.issubdtype(x.dtype, jnp.integer) else x  # noqa: E731
    loaded = subject.loaded._replace(inputs=jax.tree.map(known, subject.loaded.inputs))
    return subject._replace(loaded=loaded, before=subject.own(subject.variables, *loaded.inputs))


def inner(graph: Any) -> list[Any]:
    """One handle of those that are tied altogether, apart from inputs and outputs, which keep their sizes here."""
    ties, ends = graph.ties, (*graph.inputs, *graph.outputs)
    outer = {run for vertex in ends for run in ties.plain(ties.axes.get(vertex.name, ()))}
    distinct = {frozenset(ties.plain(ties.axes[h.name])): h for h in graph.handles().values() if h.size > 1}
    return [handle for runs, handle in distinct.items() if not runs & outer]


def _one(row: Row, subject: Subject, mutation: Any) -> None:
    """Evaluate what came out, and compare it with the original where that is defined."""
    before, after = subject.before, computed(mutation.graph.apply, mutation.variables, *subject.arrays)
    assert all(np.isfinite(x).all() for x in after), "outputs are not finite"
    assert [x.shape for x in after] == [x.shape for x in before], "outputs have another shape"
    if row.gradients < 2 and (row.growths or not row.gradients):  # of one shrink and one growth
        _differentiate(mutation, subject.arrays)
        row.gradients += 1
    shrunk = _dropped(mutation)
    if shrunk and not row.rebuilt and subject.loaded.model is not None:
        _rebuild(row, subject.loaded, mutation)
    if coupled := mutation.before.ties.changed_coupled(mutation.plan.changed):
        row.why[f"is coupled: {next(iter(coupled.values()))}"] += int(shrunk)
    elif mutation.incomparable:
        row.why[mutation.incomparable] += 1
    elif shrunk:
        _compare_masked(row, subject, mutation, after)
    else:
        assert far(before, after) < CLOSE, f"growth changed the function by {far(before, after):.2g}"
        row.kept += 1


def _dropped(mutation: Any) -> bool:
    return any(axis.dropped.size for axis in mutation.plan.changed.values())


def _compare_masked(row: Row, subject: Subject, mutation: Any, after: list[np.ndarray]) -> None:
    """The shrunk model, and the original with the neurons that went dead in it, by two who say so."""
    own, why = without(subject.own, subject.variables, mutation, subject.loaded.inputs)
    if why == UNREAD:
        row.why[why] += 1
        return
    ours = _masked(subject, mutation.plan)
    assert far(ours, after) < CLOSE, f"differs from the masked original by {far(ours, after):.2g}"
    row.masked += 1
    row.felt += far(subject.before, after) > 1e-6
    if why:
        row.why_not_own[why] += 1
        return
    assert far(own, after) < CLOSE, f"differs from the user's own model by {far(own, after):.2g}"
    row.own += 1


def _masked(subject: Subject, plan: Any) -> list[np.ndarray]:
    """What `Mutation.check` compares with: the steps of `oracle.masked_outputs`, without its compilation."""
    alive = {name: np.isin(np.arange(axis.before), axis.dropped, invert=True) for name, axis in plan.axes.items()}
    alive = {name: flags for name, flags in alive.items() if not flags.all()}
    masked, factors = oracle._inner_masked(subject.graph, subject.variables, plan)
    return computed(lambda v, *xs: oracle._forced(subject.graph, v, xs, alive, factors), masked, *subject.arrays)


def _rebuild(row: Row, loaded: Loaded, mutation: Any) -> None:
    """The user's own class with the new sizes, where there is one; that it computes the same is checked inside."""
    try:
        nas.rebuild(loaded.model, mutation, time_limit=REBUILD)
        row.rebuilt = "yes"
    except nas.RebuildError as error:
        row.rebuilt, row.refused = "no", short("", error)[2:]


def _differentiate(mutation: Any, arrays: list[Any]) -> None:
    def loss(params: Any) -> Any:
        outputs = jax.tree.leaves(mutation.graph.apply({**mutation.variables, "params": params}, *arrays))
        return sum((jnp.abs(x.astype(jnp.float32)) ** 2).mean() for x in outputs)

    gradient = computed(jax.grad(loss, allow_int=True), mutation.variables["params"])
    arrays = [as_numbers(g) for g in gradient if g.dtype != jax.dtypes.float0]
    assert all(np.isfinite(g).all() for g in arrays), "the gradient is not finite"
    assert any(g.any() for g in arrays), "the gradient is zero"


def short(where: str, error: Exception) -> str:
    return f"{where}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200]
