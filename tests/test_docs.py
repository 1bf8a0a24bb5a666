"""The Python code in README.md and docs/ runs.

The blocks of one file run in order and share one namespace, in an empty folder of their own. A block that starts with
```python no-run is left out.
"""

import re
import sys
import textwrap
import traceback
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^ *```python(?P<info>(?: [^\n]*)?)\n(?P<code>.*?)^ *```[ \t]*$", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    line: int  # of the first line of code
    code: str


def read_blocks(text: str) -> list[Block]:
    return [
        Block(text.count("\n", 0, match.start("code")) + 1, textwrap.dedent(match["code"]))
        for match in BLOCK.finditer(text)
        if "no-run" not in match["info"].split()
    ]


def run_block(block: Block, path: Path, namespace: dict) -> None:
    try:
        padded = "\n" * (block.line - 1) + block.code  # so that tracebacks show lines of the file
        exec(compile(padded, path, "exec", dont_inherit=True), namespace)
    except Exception as error:
        raise AssertionError(f"{path}:{failing_line(error, path, block.line)}: {error!r}") from error


def failing_line(error: Exception, path: Path, start: int) -> int:
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno or start
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return lines[-1] or start if lines else start


def documents() -> list[Path]:
    paths = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [path for path in paths if path.exists() and read_blocks(path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("path", [pytest.param(path, id=str(path.relative_to(ROOT))) for path in documents()])
def test_code_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    module = ModuleType("document")
    monkeypatch.setitem(sys.modules, "document", module)  # classes of the document are looked up there
    for block in read_blocks(path.read_text(encoding="utf-8")):
        run_block(block, path, vars(module))


def test_reads_blocks_with_their_lines():
    plain = "# A\n```python\nx = 1\n```\n"
    others = "```python no-run\n1 / 0\n```\n```pycon\n>>> 1\n```\n"
    indented = "- b\n  ```python\n  x += 1\n  ```\n"
    assert read_blocks(plain + others + indented) == [Block(3, "x = 1\n"), Block(13, "x += 1\n")]


@pytest.mark.parametrize(("code", "line"), [("x = 1\n1 / 0\n", 8), ("x = (\n", 7)], ids=["runtime", "syntax"])
def test_failure_names_file_and_line(code: str, line: int):
    with pytest.raises(AssertionError, match=rf"^README\.md:{line}: "):
        run_block(Block(7, code), Path("README.md"), {})
