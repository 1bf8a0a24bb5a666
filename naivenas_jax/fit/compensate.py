"""Kept neurons take over what dropped ones contributed: `compensate`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from naivenas_jax.checks import require_flag, require_progress
from naivenas_jax.errors import PlanError
from naivenas_jax.fit.network.data import Data
from naivenas_jax.fit.network.memory import require_memory
from naivenas_jax.fit.network.network import Network, Runs, check_values
from naivenas_jax.fit.outputs import WantedOutputs, made_outputs
from naivenas_jax.fit.products.turned import turned
from naivenas_jax.fit.regression.fitting import Fitting
from naivenas_jax.fit.regression.loops.loop_fitting import LoopFitting
from naivenas_jax.fit.regression.ridge import require_ridge
from naivenas_jax.fit.regression.way import Way, ways_of
from naivenas_jax.mutate.around.keywords import shows_keywords
from naivenas_jax.mutate.result.mutation import Mutation, require_mutation
from naivenas_jax.paths import path_text
from naivenas_jax.progress import tracked
from naivenas_jax.transfer.take import to_host
from naivenas_jax.transfer.variables import flat, handed_out, plain
from naivenas_jax.typing import PyTree, Variables

NOTE = "re-fitted on data, so that it is no longer the original with neurons forced to zero"
#: In the place of that, where no variable has another value than before.
NOTHING = "nothing was re-fitted on data: every variable is as it was"


@shows_keywords()
def compensate(
    mutation: Mutation,
    batches: Iterable[PyTree],
    *,
    weights: bool = True,
    statistics: bool = True,
    outcomes: bool = True,
    ridge: float | None = None,
    memory: int | None = None,
    progress: bool | None = None,
    **kwargs: PyTree,
) -> Mutation:
    """The same graph, its weights re-fitted so that kept neurons take over what dropped ones contributed.

    Every weight B (K, M) of a matrix product or convolution whose inputs have changed is fitted anew, in the order of
    evaluation, by ridge regression over all examples and positions:

        minimise  |Y - X B - 1 c|^2 + ridge * s * |B - B0|^2

    X (N, K) holds the inputs of the weight in the *pruned* network, all weights before it re-fitted (patches, for a
    convolution). Y (N, M) holds its outputs in the *original* network, of the neurons that are kept. B0 is the
    weight now, s the mean square of a column of X. The shift c is put into the variable that is added next: the bias,
    or the running mean of a normalisation; where there is neither, c is 0. A dropped neuron that is constant on the
    data is only a shift, and is folded into c exactly. Batch statistics are estimated again along the way (see
    `recalibrate`).

    Where a skip connection adds an activation S to the output of the weight (and of its bias), the sum is fitted: Y is
    then Y + S of the original network, less S of the pruned one. So it is behind a layer scale, which S is divided by,
    and of several branches (attention and perceptron side by side) the last one makes up for all.

    In the end the output of the activation function counts, not its input: before a relu that is off, any negative
    number is as good as another. So the weight is then improved in up to four steps, as long as they help, to make
    f(X B + 1 c) as near to f(Y) as it can be. Here f is everything that is computed entry by entry behind the weight:
    normalisation, skip connection, activation (see `naivenas_jax.fit.regression.generalised_linear_fit`).

    In grouped convolutions, and in products over a batch of weights, every group has a problem of its own, with one
    ridge for all.

    Queries and keys of an attention that lose features, head by head, are read by no weight, but by a product Q K^T. It
    becomes the best product of so few features, over all queries and all keys, before anything else is fitted (see
    `naivenas_jax.fit.products.turned`); likewise every product of two activations that weights make, with shifts and
    factors of numbers in between and nothing else, and the product of an activation and the weight that reads it, such
    as the values of a head. That takes one more pass.

    Only sums are kept between batches, X^T X and X^T Y of one weight at a time: of each batch in float32 about its
    mean, added up and solved in float64 on the host. There is a pass over the batches per weight and normalisation, and
    up to five more per weight with an activation behind it. Each goes on from where the last one ended: both networks'
    activations there are kept, of as many batches as fit into 1 GiB (`naivenas_jax.fit.network.network.KEPT`); the
    others are evaluated from the start.

    In loops (recurrent and scanned layers) weights whose products are added up, as W and U in W x + U h + b, are fitted
    together. A recurrent cell is fitted to states of the original first, and then to the states that it comes to as
    well; scanned layers are fitted one after the other (see `naivenas_jax.fit.regression.loops.loop_fitting`). All is
    fitted without the loops, too, and the variables are taken whose outputs are nearer to those of the original.

    Not re-fitted are: weights in other loops (``while``, a scan in a scan), those that are computed from variables
    (weight normalisation) or used for something else too (embeddings), those of complex or whole numbers or that read
    complex ones, those whose neurons are all new, and queries and keys that are normalised or rotated before they meet.
    They stay as they are, and weights after them make up for it as far as they can.

    Args:
      mutation: of any verb. Composed mutations are compared with the network before the first one.
      batches: inputs of the network *before* the mutation; arrays, or tuples of arrays where there are several inputs.
        Anything that can be iterated over again and is the same then; an iterator is made into a list. No labels.
      weights: False: only the shifts are fitted, weights stay, those of products too.
      statistics: whether batch statistics are estimated again.
      outcomes: False: weights are aimed at what they made, and not at what becomes of it. Takes less time.
      ridge: relative to the inputs' mean square. None: for each weight one of 1e-6 ... 10 or infinity (it stays),
        whichever has the smallest error on every fourth example when fitted on the others.
      memory: bytes that sums over rows may take. A weight is then fitted on fewer rows (positions of a convolution).
        One with too many inputs is fitted in fewer combinations of what it reads of each neuron, or, if there are not
        that many either, stays as it is but for its shift. ``notes`` say which. None: half of what the machine has.
      progress: whether to show how far it is: None: in a terminal and a notebook, after a second; True: elsewhere
        too, in lines on standard error; False: never.
      **kwargs: passed to ``graph.apply`` of both networks.

    Returns:
      A `Mutation` from the same network to the same graph, with other variables. ``undo`` puts back what was dropped,
      and keeps what was re-fitted as it is now. ``check`` compares it only if nothing had to be re-fitted.

    Raises:
      VariablesError: there are no batches, or other ones when they are read again, as of a loader that shuffles; or the
        mutation was made on shapes.
      RequestError: ``ridge`` is no number of at least 0, or ``memory`` no whole number of at least 1.
      PlanError: no mutation is given; or it changes inputs of the graph, so that the two networks cannot be given the
        same.

    Source: reconstruction of layers, and of the sums behind skip connections, He, Zhang and Sun, Channel Pruning for
    Accelerating Very Deep Neural Networks, ICCV 2017; Luo, Wu and Lin, ThiNet, ICCV 2017. Of outcomes, Zhang, Zou, He
    and Sun, Accelerating Very Deep Convolutional Networks for Classification and Detection, 2015. Of products, Eckart
    and Young, The approximation of one matrix by another of lower rank, Psychometrika 1936.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 4)
    >>> hidden = nas.invariant_vertex("relu", nn.relu, nas.layer("hidden", nn.Dense(16), x))
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), hidden))
    >>> data = jax.random.normal(jax.random.key(1), (200, 4))
    >>> variables = graph.init(jax.random.key(0), data)
    >>> pruned = nas.delta_nout(graph, variables, {"hidden": -6})
    >>> fitted = nas.compensate(pruned, [data])
    >>> wanted = graph.apply(variables, data)
    >>> def error(m):
    ...     return float(((m.graph.apply(m.variables, data) - wanted) ** 2).mean())
    >>> error(fitted) < 0.5 * error(pruned)
    True
    """
    require_mutation(mutation)
    check_values(mutation.graph, mutation.variables)
    networks = Network(mutation.before, kwargs), Network(mutation.graph, kwargs)
    return compensated(
        mutation, networks, Data.of(mutation.before, batches), weights, statistics, outcomes, ridge, memory, progress
    )


def compensated(
    mutation: Mutation,
    networks: tuple[Network, Network],
    data: Data,
    weights: bool = True,
    statistics: bool = True,
    outcomes: bool = True,
    ridge: float | None = None,
    memory: int | None = None,
    progress: bool | None = None,
) -> Mutation:
    """`compensate`, for networks before and after the mutation that exist already.

    Raises:
      PlanError: if the mutation changes inputs of the graph, or a flag is no bool.
      RequestError: if the ridge is no number of at least 0.
    """
    require_flag(weights, "weights", PlanError)
    require_flag(outcomes, "outcomes", PlanError)
    require_flag(statistics, "statistics", PlanError)
    require_progress(progress, PlanError)
    ridge, limit = require_ridge(ridge), require_memory(memory)
    require_same_inputs(mutation, "Compensate")
    before, variables = plain(mutation.variables_before), plain(mutation.variables)
    on_dicts = replace(mutation, variables=variables, variables_before=before)
    if weights:
        on_dicts = turned(on_dicts, networks, data)
        before, variables = on_dicts.variables_before, on_dicts.variables
    runs = Runs(data, ((networks[0], before), (networks[1], variables)))
    fitting = Fitting(on_dicts, networks, runs, weights, outcomes, ridge, limit)
    ways = ways_of(fitting, statistics)
    found = _refitted(ways, variables, progress)
    taken = _nearest(found, fitting)
    if taken is not ways[0]:
        fitting.notes.append(f"not re-fitted (outputs would come no nearer): {_named(ways[0].loops)}")
    passed_over = fitting.passed_over(taken.paths) if weights else []
    fitted = with_variables(mutation, found[taken], NOTE, NOTHING)
    return replace(fitted, notes=(*fitted.notes, *dict.fromkeys([*passed_over, *fitting.notes])))


def _refitted(ways: Sequence[Way], variables: Variables, progress: bool | None) -> dict[Way, Variables]:
    """What becomes of the variables on each of some ways."""
    found = dict.fromkeys(ways, variables)
    with tracked([(way, stage) for way in ways for stage in way.stages], "compensate", progress) as begun:
        for way, stage in begun:
            found[way] = way.refitted(found[way], stage)
    return found


def _nearest(found: Mapping[Way, Variables], fitting: Fitting) -> Way:
    """The way to the outputs that are nearest to those of the original; the first one, if none is nearer."""
    first, *others = found
    if not others:
        return first
    data, (before, after) = fitting.runs.data, fitting.networks
    made = made_outputs(before, fitting.mutation.variables_before, data)
    if not any(np.issubdtype(array.dtype, np.inexact) for array in made[0]):
        return first  # whole numbers, of which none is nearer
    wanted = WantedOutputs.of(fitting.mutation, data, made)
    return min(found, key=lambda way: float(wanted.distances(after, found[way]).mean()))


def _named(loops: Iterable[LoopFitting]) -> str:
    return ", ".join(sorted({path_text(path) for own in loops for path in own.loop.paths})[:5])


def with_variables(mutation: Mutation, variables: Variables, fitted: str, nothing: str) -> Mutation:
    """A mutation with variables that were fitted: it can no longer be compared, unless they are those that it had.

    Args:
      mutation: the mutation.
      variables: the variables, in dicts.
      fitted: the note where a variable has another value than before: why the mutation cannot be compared.
      nothing: the note where none has.
    """
    had, has = flat(plain(mutation.variables)), flat(variables)
    same = all(has[path] is array or np.array_equal(to_host(has[path]), to_host(array)) for path, array in had.items())
    return replace(
        mutation,
        variables=handed_out(variables, mutation.variables),
        notes=(*mutation.notes, nothing if same else fitted),
        incomparable=mutation.incomparable or (None if same else fitted),
    )


def require_same_inputs(mutation: Mutation, verb: str) -> None:
    """Raise if the networks before and after a mutation cannot be given the same data.

    Raises:
      PlanError: names the input that changes.
    """
    if changed := [v.name for v in mutation.before.inputs if mutation.plan.axis(v.name).changed]:
        raise PlanError(
            f"The mutation changes the input {changed[0]!r}, so that the same data cannot be given to the network "
            f"before and after. {verb} a mutation that leaves inputs alone."
        )
