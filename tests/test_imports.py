"""The shape of the package: no circle of imports, rooms of a dozen files, names that differ, files that can be read."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import flax.linen as nn
import grimp
import jax
import jax.numpy as jnp
import numpy as np
import pytest

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


FEW = """
import flax.linen as nn, jax, naivenas_jax as nas
graph = nas.Graph(x := nas.input_vertex("x", 3), nas.layer("b", nn.Dense(2), nas.layer("a", nn.Dense(4), x)))
shapes = jax.eval_shape(graph.init, jax.random.key(0), jax.numpy.ones((1, 3)))
nas.delta_nout(graph, shapes, {"a": -1})
"""
SEVERAL = f"""{FEW}
both = nas.Graph(x, nas.concat("both", nas.layer("c", nn.Dense(4), x), nas.layer("d", nn.Dense(4), x)))
shapes = jax.eval_shape(both.init, jax.random.key(0), jax.numpy.ones((1, 3)))
nas.delta_nout(both, shapes, {{"both": -3}}, SETTING)
"""


PICKLED = """
import pickle, sys, naivenas_jax, numpy as np
graph, variables, plan = pickle.loads(sys.stdin.buffer.read())
changed = plan.apply(variables)["params"]["a"]["bias"]
print(*graph.apply(variables, np.array([[1.0, 2.0, 3.0]]))[0].tolist())
print(graph.ties.sizes, changed.shape)
print("naivenas_jax.mutate" in sys.modules, "delta_nout" in dir(naivenas_jax), "naivenas_jax.mutate" in sys.modules)
"""


def test_the_import_waits_for_a_public_name_and_pickles_do_not_need_one():
    x = nas.input_vertex("x", 3)
    graph = nas.Graph(x, nas.layer("b", nn.Dense(2), nas.layer("a", nn.Dense(4), x)))
    variables = jax.tree.map(np.asarray, graph.init(jax.random.key(0), jnp.ones((1, 3))))
    given = pickle.dumps((graph, variables, nas.delta_nout(graph, variables, {"a": -1}).plan))
    run = subprocess.run([sys.executable, "-c", PICKLED], input=given, capture_output=True, check=True)
    values, *rest = run.stdout.decode().splitlines()
    expected = graph.apply(variables, np.array([[1.0, 2.0, 3.0]]))[0]
    np.testing.assert_allclose(np.array(values.split(), float), expected, rtol=1e-5)
    assert rest == [f"{graph.ties.sizes} (3,)", "False True True"]


@pytest.mark.parametrize(
    ("code", "imported"),
    [
        pytest.param("import naivenas_jax", False, id="the import"),
        pytest.param(FEW, False, id="a change that needs no solver"),
        pytest.param(SEVERAL.replace("SETTING", "free_outputs=True"), True, id="a change that needs one"),
    ],
)
def test_what_takes_long_is_imported_when_it_is_first_needed(code: str, imported: bool):
    """cvxpy with scipy.stats behind it, and scipy.interpolate with scipy.optimize, took three quarters of the time."""
    ask = "import sys; print(*sorted({'cvxpy', 'scipy.interpolate', 'scipy.stats'} & {*sys.modules}))"
    run = subprocess.run([sys.executable, "-c", f"{code}\n{ask}"], capture_output=True, text=True, check=True)
    assert ("cvxpy" in run.stdout.split()) is imported
    assert imported or not run.stdout.split()
