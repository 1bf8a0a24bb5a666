"""What docs/parity.md says is there."""

import ast
import re
from functools import cache
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import naivenas_jax as nas

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "parity.md").read_text("utf-8")
ROWS = [line for line in TEXT.splitlines() if line.startswith("| ") and " | shown by |" not in line]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::([\w:]+)(?:\[(.+?)\])?` \|$")


@cache
def source(path: str) -> tuple[str, ast.Module]:
    text = (ROOT / path).read_text("utf-8")
    return text, ast.parse(text)


def exists(path: str, name: str, case: str | None) -> bool:
    """Whether a file has that class and function, and the name of the case among its texts."""
    if not (ROOT / path).exists():
        return False
    found: ast.AST = source(path)[1]
    for part in name.split("::"):
        inner = [node for node in getattr(found, "body", []) if getattr(node, "name", None) == part]
        if not inner:
            return False
        found = inner[0]
    texts = {node.value for node in ast.walk(source(path)[1]) if isinstance(node, ast.Constant)}
    return case is None or case in texts or re.sub(r"^\w+: ", "", case) in texts


def test_every_row_names_a_test_that_exists():
    assert len(ROWS) > 150
    named = {row: NAMED.search(row) for row in ROWS}
    assert [row for row, match in named.items() if match is None] == []
    assert [row for row, match in named.items() if match and not exists(*match.groups())] == []


def test_a_test_that_does_not_exist_is_found():
    path = "tests/mutate/test_structure.py"
    assert exists(path, "test_who_reads_whom", "insert: as wide")
    assert not exists(path, "test_who_reads_whom", "insert: as wide as can be")
    assert not exists(path, "TestCycles::test_who_reads_whom", None)
    assert not exists("tests/test_of_nothing.py", "test_who_reads_whom", None)


def test_every_name_of_ours_exists():
    names = set(re.findall(r"`nas\.([\w.]+)", TEXT))
    for name in sorted(names):
        found = nas
        for part in name.split("."):
            found = getattr(found, part)


def network() -> nas.Graph:
    x = nas.input_vertex("x", 3)
    return nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("hidden", nn.Dense(4), x)))


def test_the_value_of_a_vertex():
    graph, x = network(), jnp.ones((1, 3))
    variables = graph.init(jax.random.key(0), x)
    part = nas.Graph(graph.inputs, graph["hidden"])
    hidden = part.apply(variables, x)
    assert jnp.allclose(nn.Dense(2).apply({"params": variables["params"]["out"]}, hidden), graph.apply(variables, x))


def test_a_graph_needs_an_input():
    with pytest.raises(nas.GraphError, match="one vertex or several"):
        nas.Graph([], network()["hidden"])


def test_arrays_of_different_dimensions_are_not_concatenated():
    x, image = nas.input_vertex("x", 3), nas.input_vertex("image", 3)
    graph = nas.Graph([x, image], nas.concat("both", nas.layer("a", nn.Dense(4), x), image))
    with pytest.raises(TypeError, match="dimensions"):
        graph.init(jax.random.key(0), jnp.ones((1, 3)), jnp.ones((1, 4, 4, 3)))
