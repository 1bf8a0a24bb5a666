"""Docstrings of what users call: arguments, attributes, result, example; of errors: who raises them, and what helps."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest

import naivenas_jax as nas

PUBLIC = {name: getattr(nas, name) for name in nas.__all__}
FUNCTIONS = sorted(name for name in PUBLIC if inspect.isfunction(PUBLIC[name]))
ERRORS = sorted(name for name in PUBLIC if inspect.isclass(PUBLIC[name]) and issubclass(PUBLIC[name], Exception))
CLASSES = sorted(name for name in PUBLIC if inspect.isclass(PUBLIC[name]) and name not in ERRORS)
COMPUTED = property | functools.cached_property


def doc(thing: object) -> str:
    return inspect.getdoc(thing) or ""


def described(thing: object, section: str) -> set[str]:
    """The names that a section of the docstring explains."""
    text = re.search(rf"(?ms)^{section}:\n(.*?)(?=^\S|\Z)", doc(thing))
    entries = re.findall(r"(?m)^  ([\w*, ]+):", text[1]) if text else []
    return {word for entry in entries for word in re.findall(r"\w+", entry)}


def arguments(thing: object) -> set[str]:
    """The arguments that a docstring describes, or those do that it refers to."""
    text, found = doc(thing), described(thing, "Args") | described(thing, "Keyword Args")
    found.update(word for line in re.findall(r"\*\*\w+:(.*)", text) for word in re.findall(r"``(\w+)``", line))
    return found.union(*(arguments(PUBLIC[other]) for other in re.findall(r"as for `(\w+)`", text) if other in PUBLIC))


def lacks(function: Callable, takes: list[str]) -> list[str]:
    """What a docstring does not say of a function, but for the example."""
    found = [f"argument {name}" for name in takes if name not in arguments(function)]
    returns = inspect.signature(function).return_annotation not in (None, "None")
    return found + (["Returns"] if returns and "Returns:" not in doc(function) else [])


def raised(thing: object) -> set[str]:
    """The errors that a docstring names, or those do that it refers to."""
    text = re.search(r"(?ms)^Raises:\n(.*?)(?=^\S|\Z)", doc(thing))
    others = re.findall(r"(?:as|and) `(\w+)`", text[1]) if text else []
    own = re.findall(r"\w+Error", text[1]) if text else []
    return set(own).union(*(raised(PUBLIC[name]) for name in others if name in PUBLIC))


def examples(thing: object) -> str:
    return "\n".join(re.findall(r"(?m)^ *(?:>>>|\.\.\.) .*", doc(thing)))


def methods(owner: type) -> Iterator[tuple[str, object]]:
    """Public functions, class methods and properties of a class, with those that it inherits from ours."""
    ours = [cls for cls in owner.__mro__ if cls.__module__.startswith("naivenas_jax")]
    for name in sorted({name for cls in ours for name in vars(cls) if not name.startswith("_")}):
        found = inspect.getattr_static(owner, name)
        if getattr(getattr(found, "__func__", found), "__module__", "").startswith("chex"):
            continue  # chex gives its dataclasses methods
        if inspect.isfunction(found) or isinstance(found, classmethod | staticmethod | COMPUTED):
            yield name, found


def attributes(owner: type) -> list[str]:
    """What a class holds: fields of a data class, keys of a dict, what the constructor of an error takes."""
    if dataclasses.is_dataclass(owner):
        return [field.name for field in dataclasses.fields(owner) if not field.name.startswith("_")]
    if issubclass(owner, Exception):
        takes = inspect.signature(owner.__init__).parameters if "__init__" in vars(owner) else ()
        return [name for name in takes if name not in ("self", "message")]
    return [name for cls in owner.__mro__ for name in vars(cls).get("__annotations__", ()) if not name.startswith("_")]


def explained(owner: type) -> set[str]:
    """The attributes that the docstring explains, or those do that it refers to."""
    others = re.findall(r"those of `(\w+)`", doc(owner))
    return described(owner, "Attributes").union(*(explained(PUBLIC[name]) for name in others if name in PUBLIC))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_docstring_of_a_function_is_complete(name: str):
    function = PUBLIC[name]
    found = lacks(function, list(inspect.signature(function).parameters))
    assert found + ([] if examples(function) else ["example"]) == []


@pytest.mark.parametrize(("argument", "error"), [("graph", "GraphError"), ("mutation", "PlanError")])
def test_docstrings_of_functions_name_the_error_about_their_first_argument(argument: str, error: str):
    taking = [name for name in FUNCTIONS if next(iter(inspect.signature(PUBLIC[name]).parameters), None) == argument]
    assert taking
    assert [name for name in taking if error not in raised(PUBLIC[name])] == []


@pytest.mark.parametrize("name", CLASSES + ERRORS)
def test_docstring_of_a_class_explains_what_it_holds(name: str):
    assert [attribute for attribute in attributes(PUBLIC[name]) if attribute not in explained(PUBLIC[name])] == []


@pytest.mark.parametrize("name", CLASSES)
def test_docstring_of_a_class_has_an_example(name: str):
    assert examples(PUBLIC[name])


@pytest.mark.parametrize(
    ("name", "method"), [(name, method) for name in CLASSES for method, _ in methods(PUBLIC[name])]
)
def test_docstring_of_a_method_is_complete(name: str, method: str):
    found = dict(methods(PUBLIC[name]))[method]
    if not isinstance(found, COMPUTED):  # these are described by a noun
        function = found.__func__ if isinstance(found, classmethod | staticmethod) else found
        takes = list(inspect.signature(function).parameters)
        assert lacks(function, takes if isinstance(found, staticmethod) else takes[1:]) == []
    assert doc(found)
    shown = re.search(rf"\.{method}\b", examples(PUBLIC[name]))
    refers = isinstance(found, COMPUTED) or f"see `{name}`" in doc(found)
    assert examples(found) or (shown and refers), f"no example here, nor in {name} with a word about it here"


@pytest.mark.parametrize("name", ERRORS)
def test_docstring_of_an_error_says_who_raises_it_and_what_helps(name: str):
    assert "Raised by " in doc(PUBLIC[name])
    assert "What helps: " in doc(PUBLIC[name])


@pytest.mark.parametrize("module", [nas.fallback, nas.watch], ids=["fallback", "watch"])
def test_docstring_of_a_module_for_users_lists_what_it_has(module: ModuleType):
    listed = re.findall(r"`+(\w+)", doc(module))
    assert [name for name in module.__all__ if name not in listed] == []
    assert examples(module)
    functions = [getattr(module, name) for name in module.__all__ if inspect.isfunction(getattr(module, name))]
    step = {"graph", "variables", "request", "error"}  # these the docstring of the module explains
    taken = {function: inspect.signature(function).parameters.keys() - step for function in functions}
    assert {f.__name__: missing for f, names in taken.items() if (missing := lacks(f, sorted(names)))} == {}


def test_names_that_docstrings_mention_exist():
    texts = [doc(thing) for thing in PUBLIC.values()]
    texts += [doc(method) for name in CLASSES for _, method in methods(PUBLIC[name])]
    mentioned = {name for text in texts for name in re.findall(r"`nas\.(\w+)", text)}
    assert sorted(name for name in mentioned if not hasattr(nas, name)) == []
