"""The shape of the package: no circle of imports, rooms of a dozen files, names that differ, files that can be read."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import grimp

import naivenas_jax as nas

PACKAGE = Path(nas.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES, LINES = 12, 400  # of a folder beside its __init__, and of a file
ANY = 15  # in a thousand lines


def circles(imports: dict[str, set[str]]) -> list[set[str]]:
    """The largest sets of modules that import one another, directly or not."""
    found, rest = [], set(imports)
    reached = {module: reach(module, imports) for module in imports}
    while rest:
        module = rest.pop()
        circle = {other for other in reached[module] & rest if module in reached[other]} | {module}
        rest -= circle
        if len(circle) > 1:
            found.append(circle)
    return found


def reach(module: str, imports: dict[str, set[str]]) -> set[str]:
    """What a module imports, directly or not."""
    found, left = set(), [module]
    while left:
        new = imports[left.pop()] - found
        found |= new
        left += new
    return found


def test_no_circle():
    """For type checking neither: what a module cannot be read without is above or below it, and never both."""
    graph = grimp.build_graph("naivenas_jax", exclude_type_checking_imports=False, cache_dir=None)
    imports = {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}
    assert circles(imports) == []


def test_circles_are_found():
    imports = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"a"}}
    assert circles(imports) == [{"b", "c"}]


def test_folders_have_a_dozen_modules_at_most():
    numbers = Counter(file.parent for file in FILES if file.name != "__init__.py")
    assert {str(folder): number for folder, number in numbers.items() if number > MODULES} == {}


def test_names_of_files_differ():
    """A name that is read in a traceback or a tab of an editor is then the name of one file."""
    numbers = Counter(file.name for file in FILES if file.name != "__init__.py")
    assert {name: number for name, number in numbers.items() if number > 1} == {}


def test_files_are_short():
    lengths = {str(file): len(file.read_text(encoding="utf-8").splitlines()) for file in FILES}
    assert {file: length for file, length in lengths.items() if length > LINES} == {}


def test_types_say_something():
    texts = [file.read_text(encoding="utf-8") for file in FILES]
    anys, lines = (sum(len(re.findall(pattern, text)) for text in texts) for pattern in (r"\bAny\b", r"\n"))
    assert 1000 * anys <= ANY * lines
