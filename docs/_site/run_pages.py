"""Runs the Python code of the pages, and keeps what it printed and showed.

The blocks of one page run in order and share one namespace, in an empty folder of their own. A block that starts with
```python no-run is left out. A block of ```text right behind code is what the code prints, and has to be; in it ...
stands for anything. `tests/test_docs.py` runs all pages, and leaves the outputs where the site finds them.
"""

import ast
import contextlib
import doctest
import functools
import hashlib
import io
import json
import os
import platform
import re
import sys
import textwrap
import traceback
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
RUNS = ROOT / "docs" / "_build" / "runs"
BLOCK = re.compile(
    r"^(?P<indent> *)```python(?P<info>(?: [^\n]*)?)\n(?P<code>.*?)^ *```[ \t]*$"
    r"(?:\n+(?P=indent)```text\n(?P<expected>.*?)^ *```[ \t]*$)?",
    re.DOTALL | re.MULTILINE,
)
MODULE = "model"  # what the code of a page is a module of
SHOWN = ("text/html", "image/svg+xml", "text/markdown", "text/plain")  # what is shown of a value, the best first


class Block(NamedTuple):
    """A block of code, where its first line is, and what it prints according to the page."""

    line: int
    code: str
    expected: str | None = None


def read_blocks(text: str) -> list[Block]:
    """The blocks of a page that run."""
    return [as_block(text, match) for match in BLOCK.finditer(text) if runs(match)]


def runs(match: re.Match[str]) -> bool:
    return "no-run" not in match["info"].split()


def as_block(text: str, match: re.Match[str]) -> Block:
    expected = match["expected"]
    return Block(
        text.count("\n", 0, match.start("code")) + 1,
        textwrap.dedent(match["code"]),
        None if expected is None else textwrap.dedent(expected),
    )


def pages() -> list[Path]:
    """README.md and the pages of docs/ that have code. Tables, and the changelog, have none."""
    paths = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [path for path in paths if read_blocks(path.read_text(encoding="utf-8"))]


def run_page(path: Path, namespace: dict) -> list[list[dict]]:
    """Runs the blocks of a page, and returns the outputs of each as notebooks have them."""
    blocks = read_blocks(path.read_text(encoding="utf-8"))
    return [as_of_a_file(run_block(block, path, namespace), path, blocks) for block in blocks]


def as_of_a_file(outputs: list[dict], path: Path, blocks: list[Block]) -> list[dict]:
    """Outputs in which a line of a page is a line of `model.py`, counted from 1 in the block where it is."""

    def line(found: re.Match[str]) -> str:
        number = int(found[1])
        return f"{MODULE}.py:{number - max(block.line for block in blocks if block.line <= number) + 1}"

    place = re.compile(re.escape(json.dumps(str(path))[1:-1]) + r":(\d+)")
    return json.loads(place.sub(line, json.dumps(outputs)))


def run_block(block: Block, path: Path, namespace: dict) -> list[dict]:
    """The outputs of a block: what it printed, and its last line if that is a value."""
    printed = io.StringIO()
    try:
        padded = "\n" * (block.line - 1) + block.code  # so that tracebacks show lines of the file
        tree = ast.parse(padded, str(path))
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        with contextlib.redirect_stdout(printed):
            exec(compile(tree, path, "exec", dont_inherit=True), namespace)
            value = (
                eval(compile(ast.Expression(last.value), path, "eval", dont_inherit=True), namespace) if last else None
            )
    except Exception as error:
        raise AssertionError(f"{path}:{failing_line(error, path, block.line)}: {error!r}") from error
    outputs = [{"output_type": "stream", "name": "stdout", "text": printed.getvalue()}] if printed.getvalue() else []
    if value is not None:
        outputs.append({"output_type": "display_data", "metadata": {}, "data": shown(value)})
    compare(block, path, outputs)
    return outputs


def shown(value: object) -> dict[str, str]:
    """A value as a notebook shows it."""
    bundle = getattr(value, "_repr_mimebundle_", lambda: {})()
    bundle = dict(bundle[0] if isinstance(bundle, tuple) else bundle)
    for kind, method in (
        ("text/html", "_repr_html_"),
        ("image/svg+xml", "_repr_svg_"),
        ("text/markdown", "_repr_markdown_"),
    ):
        if kind not in bundle and (as_text := getattr(value, method, lambda: None)()):
            bundle[kind] = as_text
    return {"text/plain": repr(value), **{kind: text for kind, text in bundle.items() if kind in SHOWN}}


def compare(block: Block, path: Path, outputs: list[dict]) -> None:
    """Raises where a page says that a block prints something else than it does."""
    if block.expected is None:
        return
    found = "".join(output.get("text") or output["data"]["text/plain"] + "\n" for output in outputs)
    rules = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    if not doctest.OutputChecker().check_output(block.expected, found, rules):
        raise AssertionError(
            f"{path}:{block.line}: the page says that this prints\n{block.expected}\nand it prints\n{found}"
        )


def failing_line(error: Exception, path: Path, start: int) -> int:
    """The line of the page that an error comes from."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno or start
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return lines[-1] or start if lines else start


@functools.cache
def library() -> str:
    """Stands for everything but the page that its outputs depend on: another library, another text."""
    packages = ("jax", "flax", "numpy", "optax")
    text = hashlib.sha256(repr([platform.python_version(), *map(version, packages)]).encode())
    for path in [Path(__file__), *sorted((ROOT / "naivenas_jax").rglob("*.py"))]:
        text.update(path.read_bytes())
    return text.hexdigest()


def run_file(text: str) -> Path:
    """Where the outputs of a page are kept. Its prose does not matter, only its code."""
    return RUNS / f"{hashlib.sha256(repr([library(), read_blocks_unplaced(text)]).encode()).hexdigest()[:32]}.json"


def read_blocks_unplaced(text: str) -> list[tuple[str, str | None]]:
    return [(block.code, block.expected) for block in read_blocks(text)]


def recorded(text: str) -> list[list[dict]] | None:
    """The outputs of a page that has run before with this library, else None."""
    file = run_file(text)
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def run_in(folder: Path, path: Path) -> None:
    """Runs a page in a folder, and keeps its outputs."""
    text, before, others = path.read_text(encoding="utf-8"), Path.cwd(), sys.modules.get(MODULE)
    module = ModuleType(MODULE)
    sys.modules[MODULE] = module  # classes of the page are looked up there
    os.chdir(folder)
    try:
        outputs = run_page(path, vars(module))
    finally:
        os.chdir(before)
        sys.modules.pop(MODULE) if others is None else sys.modules.update({MODULE: others})
    RUNS.mkdir(parents=True, exist_ok=True)
    part = run_file(text).with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps(outputs), encoding="utf-8")
    part.replace(run_file(text))
