"""Errors that say why a model cannot be traced."""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path

import flax
import jax
import jax.errors
from flax.errors import InvalidRngError

from naivenas_jax.errors import GraphError, VariablesError
from naivenas_jax.typing import Array, Shape

#: The errors that JAX raises where Python needs a value that is not known while a function is traced.
NEEDS_A_VALUE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)
_FOLDERS = (Path(jax.__file__).parent, Path(flax.__file__).parent, Path(__file__).parents[2])
_LIBRARIES = (*(f"{folder}{os.sep}" for folder in _FOLDERS), "<frozen", "<__")


def needs_a_value(error: Exception) -> GraphError:
    """The error for a model whose shapes or Python code depend on values; names the line.

    Args:
      error: one of `NEEDS_A_VALUE`, which tracing the model raised.
    """
    return GraphError(
        f"The model cannot be imported: it needs a value while it is traced{_place(error)}. Found: "
        f"{str(error).splitlines()[0].rstrip('.')}. A model is traced once for all values, so shapes, and Python's "
        "if, while, range, int() and functions of numpy, must not depend on them. What works: jnp.where, "
        "jax.lax.cond, jax.lax.while_loop, functions of jax.numpy, size= for jnp.nonzero and its like; or what "
        "decides given as a number instead of an array, so that it is a constant."
    )


def does_not_fit(error: Exception, inputs: Sequence[Array | Shape]) -> VariablesError:
    """The error for variables that do not fit a linen module, or do not for inputs of these shapes.

    Args:
      error: the error that Flax raised.
      inputs: the shapes of the arrays among the inputs.
    """
    return VariablesError(
        f"The variables do not fit the module: {error} The inputs have the shapes "
        f"{[tuple(each.shape) for each in inputs]}, the first axis of which is the batch. Make the variables "
        "with module.init, or take those of this module; give inputs with as many "
        "axes as those that they were made for ([batch] where batches are asked for)."
    )


def cannot_be_called(error: Exception, inputs: Sequence[Shape], keywords: Iterable[str] = ()) -> GraphError:
    """The error for a model that fails on the example inputs.

    Args:
      error: what the model raised.
      inputs: the shapes of the arrays among the inputs.
      keywords: the names of the keyword arguments that it was called with.
    """
    said = str(error).splitlines()[0] if str(error) else ""
    needed = re.search(r'needs PRNG for "(\w+)"', said) if isinstance(error, InvalidRngError) else None
    works = (
        f"A graph is imported as it evaluates: {_left_out(keywords)}. Or, if it draws random numbers in evaluation, "
        f"too, pass rngs={{{needed[1]!r}: jax.random.key(0)}}; of a function, pass the key as an input."
        if needed
        else "Give inputs that it can be called with by itself, with the batch axis and its own number of features."
    )
    return GraphError(
        f"The model cannot be called with these inputs, of shapes {[input.shape for input in inputs]}: "
        f"{type(error).__name__}: {said}{_place(error)}. {works}"
    )


def _left_out(keywords: Iterable[str]) -> str:
    """What to do about keyword arguments, one of which may turn training on."""
    given = ", ".join(f"{name}=" for name in keywords if name != "method")
    if given:
        return f"leave {given} out, or give the value of evaluation"
    return "call it without what turns training on (train=False, deterministic=True)"


def traces_differ() -> GraphError:
    """The error for a model that is another computation each time that it is traced."""
    return GraphError(
        "The model cannot be imported: traced twice with the same arguments, it is two different computations. A graph "
        "computes one and the same each time, so the model must not depend on what changes between calls: a counter or "
        "list of Python that a call changes, numpy's or Python's random numbers, the time. Give these as inputs, keep "
        "counts in variables, and draw with jax.random from a key (rngs=)."
    )


def _place(error: Exception) -> str:
    """The innermost line of the traceback that is neither in JAX nor in Flax nor here."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_LIBRARIES)]
    return f", at {own[-1].filename}:{own[-1].lineno}: {own[-1].line}" if own else ""
