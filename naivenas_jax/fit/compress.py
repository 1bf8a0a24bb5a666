"""A network within a budget, that computes what it did as nearly as it can: `compress`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Unpack

from naivenas_jax.checks import as_flag, as_whole, require_progress
from naivenas_jax.errors import BudgetError, GraphError
from naivenas_jax.fit.compression import Candidate, Compression
from naivenas_jax.fit.network.network import check_values
from naivenas_jax.fit.refine import require_steps
from naivenas_jax.graph.graph import Graph
from naivenas_jax.mutate.around.keywords import ChainKeywords, shows_keywords
from naivenas_jax.mutate.request.bounds import Bound
from naivenas_jax.mutate.request.budget_path import BudgetPath, Span
from naivenas_jax.mutate.request.budget_request import BUDGETS, Limit, Limits
from naivenas_jax.mutate.request.options import Inputs
from naivenas_jax.mutate.request.size_request import SizeRequest
from naivenas_jax.mutate.result.mutation import Mutation
from naivenas_jax.progress import waiting
from naivenas_jax.typing import PyTree, Variables

#: How many steps are tried where one is of no use.
MORE_STEPS = 2, 4


@shows_keywords("utility")
def compress(
    graph: Graph,
    variables: Variables,
    batches: Iterable[PyTree],
    *,
    max_params: Limit = None,
    max_macs: Limit = None,
    max_bytes: Limit = None,
    max_activation_bytes: Limit = None,
    steps: int | None = None,
    outcomes: bool = True,
    ridge: float | None = None,
    memory: int | None = None,
    refine: int | None = None,
    progress: bool | None = None,
    keywords: Mapping[str, PyTree] | None = None,
    request: SizeRequest | None = None,
    min_size: Bound = None,
    max_size: Bound = None,
    inputs: Inputs = None,
    **options: Unpack[ChainKeywords],
) -> Mutation:
    """Choose widths and neurons by what the rest cannot reconstruct, within a budget, and re-fit what is left.

    In one step, or in several, each of which takes the network nearer to the budget by the same factor:

    1. the cost of every neuron: by how much the outputs change, to second order, if it is dropped and the weights that
       read it are re-fitted; for each group of neurons that vary together the change is then measured when a tenth, a
       quarter, a half, three quarters and all of it are dropped, and the costs made to add up to that (see
       `naivenas_jax.fit.dropping.importance`);
    2. the widths that keep most of the total cost within the step's budget (see `resize`);
    3. the weights that are left, re-fitted to what the *original* network makes (see `compensate`).

    Costs of neurons are added up, though two groups may stand in for one another, and neither is missed until both are
    gone. So where one step comes no nearer than the simple way (below), two are taken, and four, as long as each number
    of steps comes nearer than the last; in networks of up to 2.5e9 multiply-accumulates for a batch, as others take
    long: say ``steps=`` there.

    In the end all parameters at once are trained a little towards the outputs of the original (see `refine`), those in
    loops and attention too, which least squares do not reach.

    One in four examples, but no more than some 400, is held back from all of this. On these the outputs are compared
    in the end with those of the simple way, `resize` by its default utility and `compensate`, at the same budget, and
    the network is taken whose outputs are nearer to the original's; the simple one, if the difference is within its
    standard error, or the largest output is another one more often than there by more than the standard error of
    that. What is taken is fitted once more, to all examples, unless every weight had plenty of rows without those
    held back. Where batches have fewer than 4 examples, or these do not lie along one first dimension, whole ones are
    held back; of fewer than 4 none is, and the two are compared on what they were fitted to. ``notes`` say what was
    found. No labels are needed.

    Args:
      graph: the network.
      variables: its variables; untouched.
      batches: inputs, as for `compensate`.
      max_params: the most parameters, as for `resize`. At least one of the four budgets is needed.
      max_macs: the most multiply-accumulates, as for `resize`.
      max_bytes: the most bytes of all variables, as for `resize`.
      max_activation_bytes: the most bytes that contractions return, as for `resize`.
      steps: how many; more of them measure costs nearer to where they matter, and take longer. None: one, by measured
        costs or by the estimates alone, whichever come nearer to the outputs of the original on examples held back; or
        two or four, where that is of no use.
      outcomes: as for `compensate`.
      ridge: as for `compensate`.
      memory: as for `compensate`; costs of neurons are then taken from fewer columns too.
      refine: the most steps that all parameters at once are trained towards the outputs of the original in the end, as
        `naivenas_jax.refine` does; 0: none. None: 400, unless they would take more than 3e12 multiply-accumulates, or
        nothing could be held back; up to 1600, as long as these take no more than 1e11.
      progress: whether to show how far it is: None: in a terminal and a notebook, after a second; True: elsewhere
        too, in lines on standard error; False: never.
      keywords: keyword arguments of ``graph.apply``, for networks that need some.
      request: as for `resize`; changes are counted from the network given. Requests are exact.
      min_size: as for `resize`; fractions are fractions of the network given.
      max_size: as for `resize`; fractions are fractions of the network given.
      inputs: as for `resize`.
      **options: as for `resize`, at every step; ``time_limit`` is for each choice of widths, of which there are
        three, or ``steps + 1``, and not for what is computed on the batches. There is no ``utility``: it is found here.

    Returns:
      A `Mutation` from the network given to the one found. Its ``gap`` is the largest of the steps' choices of widths.

    Raises:
      GraphError: ``graph`` is no graph.
      BudgetError: no budget, or one that cannot be counted.
      UtilityError: a utility is given.
      VariablesError: the variables are not those of the graph, or only shapes; or the batches are no batches.
      Others: as `resize` and `compensate`.

    Source: dropping with what is left re-fitted, Hassibi and Stork, Optimal Brain Surgeon, 1993; curvature as a product
    of input and gradient covariances, Martens and Grosse, K-FAC, 2015; of structures, Wang et al., EigenDamage, 2019;
    curves that are measured, Kurtic et al., ZipLM, 2023.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 4)
    >>> hidden = nas.invariant_vertex("relu", nn.relu, nas.layer("hidden", nn.Dense(16), x))
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), hidden))
    >>> data = jax.random.normal(jax.random.key(1), (64, 4))
    >>> variables = graph.init(jax.random.key(0), data)
    >>> nas.compress(graph, variables, [data], max_params=0.5, steps=2).graph.nout("hidden")
    7
    """
    check_values(graph, variables)
    if steps is not None and not 1 <= (as_whole(steps) or 0) <= 1000:
        raise BudgetError(f"steps must be a whole number from 1 to 1000, or None for as many as help; found {steps!r}.")
    if refine is not None:
        require_steps(refine, "refine=", 0, BudgetError)
    require_progress(progress, GraphError)
    limits = Limits(
        max_params=max_params,
        max_macs=max_macs,
        max_bytes=max_bytes,
        max_activation_bytes=max_activation_bytes,
        inputs=inputs,
        grows=request is not None or as_flag(options.get("grow")) is True,
    )
    if not limits:
        raise BudgetError(f"compress needs a budget: one of {', '.join(BUDGETS)}.")
    compression = Compression.of(
        graph,
        variables,
        batches,
        outcomes=outcomes,
        ridge=ridge,
        memory=memory,
        keywords=keywords,
        inputs=inputs,
        sizes={"request": request, "min_size": min_size, "max_size": max_size},
        options=options,
    )
    path = BudgetPath.of(graph, compression.variables, limits)
    with waiting("compress", progress=progress) as tell:
        in_the_end = path.at(lambda span: span.after)
        found = compression.in_one(in_the_end) if steps is None else _in_steps(compression, path, steps, tell)
        simple = compression.at_once(in_the_end)
        if steps is None and compression.quick and not compression.helps(found, simple):
            found = _in_more_steps(compression, path, found, tell)
        tell("compared with the simple way")
        nearer = compression.nearer(found, simple)
        return compression.handed_out(compression.polished(compression.settled(nearer), refine))


def _in_more_steps(
    compression: Compression, path: BudgetPath, in_one: Candidate, tell: Callable[[str], None]
) -> Candidate:
    """Two steps, and four, as long as each number of them helps more than the last."""
    found = in_one
    for steps in MORE_STEPS:
        tried = _in_steps(compression, path, steps, tell)
        if not compression.helps(tried, found):
            break
        found = tried.noted(f"made in {steps} steps, since fewer were further away")
    return found


def _in_steps(compression: Compression, path: BudgetPath, steps: int, tell: Callable[[str], None]) -> Candidate:
    """The network after so many steps."""
    found: Candidate | None = None
    for number in range(1, steps + 1):
        tell(f"step {number} of {steps}")
        budgets = path.at(partial(_between, share=number / steps))
        found = compression.step(None if found is None else found.fitted, budgets)
    assert found is not None
    return found


def _between(span: Span, share: float) -> float:
    """The budget after a share of the steps: every step takes it down by the same factor."""
    if share == 1 or span.after >= span.before:
        return span.after
    return float(span.before ** (1 - share) * span.after**share)
