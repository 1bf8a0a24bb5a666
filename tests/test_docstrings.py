"""Docstrings of what users call: arguments, result, an example."""

from __future__ import annotations

import inspect
import re

import pytest

import naivenas_jax as nas

FUNCTIONS = sorted(name for name in nas.__all__ if inspect.isfunction(getattr(nas, name)))


def named(name: str) -> set[str]:
    """The arguments that a docstring describes, or those do that it refers to."""
    text = inspect.getdoc(getattr(nas, name)) or ""
    found = {word for line in re.findall(r"(?m)^ +([\w*, ]+):", text) for word in re.findall(r"\w+", line)}
    found.update(word for line in re.findall(r"\*\*\w+:(.*)", text) for word in re.findall(r"``(\w+)``", line))
    return found.union(*(named(other) for other in re.findall(r"as for `(\w+)`", text) if hasattr(nas, other)))


def missing(name: str) -> list[str]:
    """Parts that the docstring lacks."""
    text, signature = inspect.getdoc(getattr(nas, name)) or "", inspect.signature(getattr(nas, name))
    found = [f"argument {argument}" for argument in signature.parameters if argument not in named(name)]
    if "Returns:" not in text and signature.return_annotation not in (None, "None"):
        found.append("Returns")
    return found + ([] if ">>>" in text else ["example"])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_docstring_is_complete(name: str):
    assert missing(name) == []


def test_names_that_docstrings_mention_exist():
    texts = [inspect.getdoc(getattr(nas, name)) or "" for name in nas.__all__]
    mentioned = {name for text in texts for name in re.findall(r"`nas\.(\w+)", text)}
    assert sorted(name for name in mentioned if not hasattr(nas, name)) == []
