"""All weights of a changed network at once are fitted to the outputs of the original: `refine`."""

from __future__ import annotations

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from naivenas_jax.checks import as_whole, require_progress, shown
from naivenas_jax.errors import NaiveNASError, PlanError
from naivenas_jax.fit.compensate import require_same_inputs, with_variables
from naivenas_jax.fit.descent import Descent, Original, Parameters
from naivenas_jax.fit.network.data import Data
from naivenas_jax.fit.network.network import Network, check_values, replaced
from naivenas_jax.fit.outputs import WantedOutputs, made_outputs
from naivenas_jax.mutate.around.keywords import shows_keywords
from naivenas_jax.mutate.result.mutation import Mutation, require_mutation
from naivenas_jax.transfer.variables import flat, nested, parameters_of, plain
from naivenas_jax.typing import PyTree

#: So many steps a cosine can be counted over in single precision.
MOST_STEPS = 10_000_000
#: The largest step of a parameter, relative to the root mean square of the array that it is in.
STEP_SIZE = 2e-2
#: Nor is it larger than this part of what the outputs are off by at the start, relative to their standard deviation.
STEP_BY_ERROR = 0.1
#: So many examples are in a piece of a batch.
PIECE = 32


@shows_keywords()
def refine(
    mutation: Mutation,
    batches: Iterable[PyTree],
    *,
    steps: int = 400,
    tx: optax.GradientTransformation | None = None,
    progress: bool | None = None,
    **kwargs: PyTree,
) -> Mutation:
    """The same graph, all parameters of which are fitted at once to what the original makes of the same inputs.

    What is known as distillation, on inputs without labels. With y the outputs of the original network and y' those of
    the changed one, in evaluation mode, it minimises by stochastic gradient descent

        mean over outputs of  mean |y - y'|^2 / mean |y - mean(y)|^2,

    over the neurons that both have. One in four examples is held out. From time to time the error is measured there,
    and the parameters with the smallest one are returned: those that were given, if nothing was better. Where nothing
    has become better for half of the steps, it ends.

    Behind a sigmoid or softmax at the end, the gradients of squares vanish where it is sure, also of the wrong thing.
    So gradients go around such a last step y = f(z): y' - y is taken for the gradient by z. That is the gradient of the
    matching loss of f, of a sigmoid and of a softmax the cross-entropy of y' from y. It is done for every f whose
    derivative is symmetric and positive, as long as f reads no variable (see `naivenas_jax.fit.last_step`). What is
    measured on the examples that are held out stays the error above. It takes a second descent, as the first one is
    better at times, and then twice as long; the network with the smallest error of both is returned.

    Each batch is taken in pieces of 32 examples (large batches in 32 pieces), with an update of the parameters for
    each: ten updates that see a tenth of a batch each cost what one costs that sees all of it, and come much further.
    Where all inputs are real numbers, half of the examples are mixed with another one, x = s x1 + (1 - s) x2 with s
    drawn from 0 to 1, and the original says what becomes of them: so a few examples are many. Batches stay in one
    piece, and nothing is mixed, if ``tx`` is given, whose schedule may count steps, or if what the network makes of an
    example depends on the others.

    `compensate` solves one weight after the other and needs no step size; `refine` afterwards makes up for what they
    can only do together.

    Args:
      mutation: of any verb, `compensate` or `compress`. Composed mutations are compared with the network before the
        first one.
      batches: inputs of the network before the mutation, as for `compensate`. One step takes one batch; examples of one
        shape are compiled once.
      steps: the most steps.
      tx: an optax optimizer of the parameters, which makes one update in a step. Default: Adam with updates relative to
        the size of each array, one for each piece of a batch. They begin at two percent, or at a tenth of the relative
        error of the outputs (the root of the error above) if that is less, and end at nothing.
      progress: whether to show how far it is: None: in a terminal and a notebook, after a second; True: elsewhere
        too, in lines on standard error; False: never.
      **kwargs: passed to ``graph.apply`` of both networks.

    Returns:
      A `Mutation` from the same network to the same graph, with other parameters; statistics stay. ``notes`` has the
      errors on what was held out.

    Raises:
      PlanError: no mutation is given, or it changes inputs of the graph; the network has no outputs or no parameters
        that numbers can be fitted to.
      VariablesError: there are no batches, nothing that could be held out, or the mutation was made on shapes.

    Source: Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015; of mixed examples, Beyer et
    al., Knowledge Distillation: A Good Teacher is Patient and Consistent, CVPR 2022; of matching losses, Auer, Herbster
    and Warmuth, Exponentially Many Local Minima for Single Neurons, NIPS 1995.

    >>> import jax, flax.linen as nn, naivenas_jax as nas
    >>> x = nas.input_vertex("x", 4)
    >>> hidden = nas.invariant_vertex("relu", nn.relu, nas.layer("hidden", nn.Dense(16), x))
    >>> graph = nas.Graph(x, nas.layer("out", nn.Dense(2), hidden))
    >>> data = jax.random.normal(jax.random.key(1), (200, 4))
    >>> variables = graph.init(jax.random.key(0), data)
    >>> pruned = nas.compensate(nas.delta_nout(graph, variables, {"hidden": -8}), [data])
    >>> refined = nas.refine(pruned, [data], steps=100)
    >>> wanted = graph.apply(variables, data)
    >>> def error(m):
    ...     return float(((m.graph.apply(m.variables, data) - wanted) ** 2).mean())
    >>> error(refined) < error(pruned)
    True
    """
    require_mutation(mutation)
    check_values(mutation.graph, mutation.variables)
    require_same_inputs(mutation, "Refine")
    require_progress(progress, PlanError)
    require_steps(steps, "steps=", 1, PlanError)
    if tx is not None and not isinstance(tx, optax.GradientTransformation):
        raise PlanError(f"tx= takes an optax optimizer, such as optax.adam(1e-3); found {shown(tx)}.")
    data = Data.of(mutation.before, batches)
    original, variables = Network(mutation.before, kwargs), plain(mutation.variables_before)
    wanted = WantedOutputs.of(mutation, data, made_outputs(original, variables, data))
    networks = Original(original, variables), Network(mutation.graph, kwargs)
    return refined(mutation, networks, wanted, steps, tx, progress)


def require_steps(steps: object, argument: str, least: int, error: type[NaiveNASError]) -> None:
    """Raise unless a number of training steps was given, as many as ``least`` or more.

    Raises:
      error: if it is something else.
    """
    number = as_whole(steps)
    if number is None or not least <= number <= MOST_STEPS:
        raise error(f"{argument} is a number of training steps, {least} to {MOST_STEPS:,}; found {shown(steps)}.")


def refined(
    mutation: Mutation,
    networks: tuple[Original, Network],
    wanted: WantedOutputs,
    steps: int,
    tx: optax.GradientTransformation | None = None,
    progress: bool | None = None,
) -> Mutation:
    """`refine`, where it is known what the original makes.

    Raises:
      PlanError: if there are no parameters to fit.
    """
    variables, (original, network) = plain(mutation.variables), networks
    make = _default if tx is None else lambda updates, error: tx
    descent = Descent(network, original, wanted, variables, make, PIECE if tx is None else None)
    given: Parameters = {
        path: jnp.asarray(array)
        for path, array in parameters_of(network.graph.ties, variables).items()
        if jnp.issubdtype(jnp.result_type(array), jnp.floating)
    }
    if not given:
        raise PlanError("The network has no parameters of real numbers that could be fitted.")
    if tx is not None:
        _check_steps_of(tx, given)
    best, first, last = descent.best(given, steps, progress)
    note = f"refined on data: the error on examples that were held out went from {first:.3g} to {last:.3g}"
    nothing = f"not refined: no step made the error on examples that were held out smaller than {first:.3g}"
    arrays = flat(variables)
    fitted = {path: replaced(arrays[path], np.asarray(best[path])) for path in given if best is not given}
    return with_variables(mutation, nested({**arrays, **fitted}), note, nothing)


def _check_steps_of(tx: optax.GradientTransformation, parameters: Parameters) -> None:
    """Raise unless an optimizer makes a step, and a state for the next one, on the shapes of the parameters.

    Raises:
      PlanError: if it does not, or its ``update`` needs more than gradients, state and parameters.
    """

    def step(params: Parameters) -> tuple[PyTree, PyTree, PyTree]:
        state = tx.init(params)
        return (*tx.update(params, state, params), state)

    try:
        updates, after, state = jax.eval_shape(step, parameters)
        shapes = [jax.tree.map(jnp.shape, tree) for tree in (updates, parameters, after, state)]
    except Exception as error:  # whatever an optimizer of the user's raises
        said = str(error).splitlines()
        raise PlanError(
            f"tx= cannot make a step with (gradients, state, parameters): {type(error).__name__}: "
            f"{said[0] if said else ''}. Give an optax optimizer, such as optax.adam(1e-3)."
        ) from error
    if shapes[0] != shapes[1] or shapes[2] != shapes[3]:
        what = "updates of other shapes than the parameters" if shapes[0] != shapes[1] else "a state of another shape"
        raise PlanError(f"tx= makes {what}. Give an optax optimizer, such as optax.adam(1e-3).")


def _default(updates: int, error: float) -> optax.GradientTransformation:
    """Adam, with steps relative to the root mean square of each array, that become smaller and smaller.

    Where the outputs are nearly right, weights are too: large steps lead away from them, and the smaller ones that
    follow do not come back.

    Args:
      updates: how many steps there are.
      error: the squared error at the start, relative to the variance of the outputs.
    """
    size = np.fmin(STEP_SIZE, STEP_BY_ERROR * np.sqrt(error))  # an error that is not finite says nothing
    return optax.chain(
        optax.scale_by_adam(),
        optax.scale_by_param_block_rms(),
        optax.scale_by_learning_rate(optax.cosine_decay_schedule(float(size), updates)),
    )
