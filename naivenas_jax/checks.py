"""What counts as a number, a word, a flag or a function in an argument: asked everywhere, answered here."""

from __future__ import annotations

import difflib
import inspect
import operator
from collections.abc import Iterable, Mapping

import numpy as np

from naivenas_jax.errors import NaiveNASError


def as_whole(value: object) -> int | None:
    """``value`` as a Python integer if it is one whole number, else None.

    Integers of Python, numpy and jax are whole numbers, also as arrays without dimensions. Booleans, floats (2.0 too)
    and arrays with dimensions are not, nor is a number that jax is tracing, which nobody knows yet.

    >>> as_whole(3), as_whole(np.int64(3)), as_whole(np.array(3))
    (3, 3, 3)
    >>> as_whole(True), as_whole(3.0), as_whole(np.array([3])), as_whole("3")
    (None, None, None, None)
    """
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]  # it raises for what is no integer, which is the question
    except (TypeError, NotImplementedError, RuntimeError):  # of keys of jax, of arrays that were deleted
        return None


#: No axis has more neurons than this, no window more taps: an argument that says so is a mistake.
MOST_NEURONS = 10**8


def as_flag(value: object) -> bool | None:
    """``value`` as a Python boolean if it is one, else None; booleans of numpy are, arrays and numbers are not.

    >>> as_flag(True), as_flag(np.False_), as_flag(1), as_flag("no")
    (True, False, None, None)
    """
    return bool(value) if isinstance(value, bool | np.bool_) else None


def as_count(value: object) -> int | None:
    """``value`` as a Python integer if it is a number of neurons, whole and from 1 to `MOST_NEURONS`, else None.

    >>> as_count(3), as_count(0), as_count(2.0), as_count(10**18)
    (3, None, None, None)
    """
    whole = as_whole(value)
    return whole if whole is not None and 1 <= whole <= MOST_NEURONS else None


def as_number(value: object) -> int | float | None:
    """``value`` as a Python number if it is one real number, else None; an int where it is whole, else a float.

    Arguments for which ``0.5`` is a share and ``5`` an amount tell the two apart by the type of what is returned.
    Infinities and NaN are numbers here; a whole number that no float can hold is none.

    >>> as_number(5), as_number(np.float32(0.5)), as_number(np.array(0.5)), as_number(True), as_number(1j)
    (5, 0.5, 0.5, None, None)
    """
    whole = as_whole(value)
    if whole is not None:
        return whole if abs(whole) < _LARGEST_FLOAT else None
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    if not isinstance(value, float) and (kind != "f" or getattr(value, "ndim", None) != 0):
        return None
    try:
        return float(value)  # type: ignore[arg-type]  # of a number that is traced nobody knows the value
    except (TypeError, RuntimeError):
        return None


_LARGEST_FLOAT = int(np.finfo(float).max)


def as_items(value: object) -> tuple[object, ...] | None:
    """What a collection or an iterator holds; None if ``value`` is neither.

    A word is one thing and no collection of letters, and a mapping none of its keys; an array without dimensions has no
    items.

    >>> as_items([1, 2]), as_items(iter("ab")), as_items("ab"), as_items({"a": 1}), as_items(np.ones(()))
    ((1, 2), ('a', 'b'), None, None, None)
    """
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        return None
    if hasattr(value, "dtype") and (not getattr(value, "ndim", 0) or _deleted(value)):
        return None
    return tuple(value)


def _deleted(array: object) -> bool:
    """Whether an array is one of jax that was deleted, or donated to a call."""
    asked = getattr(array, "is_deleted", None)
    return bool(asked()) if callable(asked) else False


def shown(value: object) -> str:
    """``value`` in a message, shortened; some values cannot even be shown.

    >>> shown(["a"])
    "['a']"
    """
    try:
        return f"{value!r:.80}"
    except Exception:  # an array that was deleted, or whatever a class of the user's raises
        return "a value that cannot be shown"


def is_one_of(value: object, words: Iterable[str]) -> bool:
    """Whether ``value`` is one of some words. What cannot be compared or hashed is none.

    >>> is_one_of("sum", ("sum", "product")), is_one_of(np.ones(3), ("sum", "product"))
    (True, False)
    """
    return isinstance(value, str) and value in words


def require_flag(value: object, argument: str, error: type[NaiveNASError]) -> bool:
    """``value`` as a bool.

    Raises:
      error: if it is neither True nor False.
    """
    if as_flag(value) is None:
        raise error(f"{argument} must be True or False, found {type(value).__name__}: {shown(value)}.")
    return bool(value)


def require_progress(value: object, error: type[NaiveNASError]) -> None:
    """Raise unless a value of ``progress=`` is True, False or None.

    Raises:
      error: says so.
    """
    if value is not None and as_flag(value) is None:
        raise error(f"progress must be True, False or None, found {type(value).__name__}: {shown(value)}.")


def require_mapping(value: object, argument: str, error: type[NaiveNASError]) -> None:
    """Raise unless ``value`` is a mapping, such as a dict.

    Raises:
      error: says what was found.
    """
    if not isinstance(value, Mapping):
        raise error(f"{argument} must be a dict, found {type(value).__name__}: {shown(value)}.")


def require_mappings(values: Mapping[str, object], error: type[NaiveNASError]) -> None:
    """Raise unless all values are mappings, given by what messages call them.

    Raises:
      error: says what was found.
    """
    for argument, value in values.items():
        require_mapping(value, argument, error)


def require_words(value: object, argument: str, error: type[NaiveNASError]) -> None:
    """Raise unless ``value`` is a mapping from words, so that it can be keyword arguments.

    Raises:
      error: says what was found.
    """
    require_mapping(value, argument, error)
    for key in value if isinstance(value, Mapping) else ():
        if not isinstance(key, str):
            raise error(f"{argument} must be a dict of keyword arguments by name, found the key {shown(key)}.")


def require_function(value: object, argument: str, takes: str, error: type[NaiveNASError]) -> None:
    """Raise unless ``value`` can be called with certain arguments, as far as its signature tells.

    Args:
      value: what a user gave.
      argument: its name.
      takes: what it is called with, ``"apply, variables, batch"``.
      error: the class of what is raised.

    Raises:
      error: says what was found.

    >>> from naivenas_jax.errors import RequestError
    >>> require_function(lambda: 0, "make", "vertex", RequestError)
    Traceback (most recent call last):
    ...
    naivenas_jax.errors.RequestError: make must be a function of (vertex); found <lambda>().
    """
    if not callable(value):
        raise error(f"{argument} must be a function of ({takes}); found {type(value).__name__}: {shown(value)}.")
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):  # some built-in functions have none
        return
    try:
        signature.bind(*takes.split(", "))
    except TypeError:
        name = getattr(value, "__name__", type(value).__name__)
        raise error(f"{argument} must be a function of ({takes}); found {name}{signature}.") from None


def require_ladder(argument: str, given: object, error: type[NaiveNASError]) -> tuple[int, ...]:
    """Sizes in rising order, as a tuple.

    Args:
      argument: its name; where it starts with "sizes" a factor would do as well.
      given: what a user gave.
      error: the class of what is raised.

    Raises:
      error: if it is no ladder.

    >>> from naivenas_jax.errors import RequestError
    >>> require_ladder("kernels", range(3, 8, 2), RequestError)
    (3, 5, 7)
    """
    items = as_items(given)
    found = tuple(number for each in items or () if (number := as_count(each)) is not None)
    if not found or len(found) < len(items or ()) or list(found) != sorted(set(found)):
        raise error(
            f"{argument} must be whole numbers from 1 to {MOST_NEURONS} in ascending order, such as [16, 24, 32] or "
            f"range(8, 65, 8){', or a factor above 1' if argument.startswith('sizes') else ''}; found {shown(given)}."
        )
    return found


def nearest_names(name: str, names: Iterable[str]) -> list[str]:
    """The three names that are most like one, in upper or lower case."""
    spelled: dict[str, list[str]] = {}
    for each in names:
        spelled.setdefault(each.casefold(), []).append(each)
    near = difflib.get_close_matches(name.casefold(), list(spelled), n=3, cutoff=0.0)
    return [each for folded in near for each in spelled[folded]][:3]
