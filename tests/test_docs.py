"""The Python code in README.md and docs/ runs, and prints what the pages say, by the rules of `run_pages`."""

import os
import re
from pathlib import Path

import pytest
import run_pages
from run_pages import Block, read_blocks, run_block

# Set by nox where the site was built just before: a page that has run with this very library is not run twice.
RECORDED = os.environ.get("PAGES_HAVE_RUN") == "1"


@pytest.mark.parametrize("path", [pytest.param(p, id=str(p.relative_to(run_pages.ROOT))) for p in run_pages.pages()])
def test_code_runs(path: Path, tmp_path: Path):
    if not RECORDED or run_pages.recorded(path.read_text(encoding="utf-8")) is None:
        run_pages.run_in(tmp_path, path)


def test_no_page_has_code_that_nobody_runs():
    """Pages without code are not run, the changelog and the tables of docs/performance.md among them."""
    every = [run_pages.ROOT / "README.md", *(run_pages.ROOT / "docs").rglob("*.md")]
    texts = {str(path.relative_to(run_pages.ROOT)): path.read_text(encoding="utf-8") for path in every}
    kinds = {kind for text in texts.values() for kind in re.findall(r"^ *```(\w+)", text, re.MULTILINE)}
    assert kinds == {"python", "text", "sh"}  # what sh says is a way to install
    for name, text in texts.items():
        fences = re.findall(r"^ *```python.*", text, re.MULTILINE)
        left_out = [fence for fence in fences if fence.endswith(" no-run")]
        assert len(read_blocks(text)) == len(fences) - len(left_out), name
    named = {script for text in texts.values() for script in re.findall(r"\bpython ((?:\w+/)+\w+\.py)", text)}
    assert {"benchmarks/halving.py", "benchmarks/cost_of_a_change.py"} <= named
    assert [script for script in sorted(named) if not (run_pages.ROOT / script).exists()] == []


def test_reads_blocks_with_their_lines():
    plain = "# A\n```python\nx = 1\n```\n"
    others = "```python no-run\n1 / 0\n```\n```pycon\n>>> 1\n```\n"
    indented = "- b\n  ```python\n  x += 1\n  ```\n"
    assert read_blocks(plain + others + indented) == [Block(3, "x = 1\n"), Block(13, "x += 1\n")]


def test_text_behind_code_is_what_it_prints():
    assert read_blocks("```python\nprint(1)\n```\n\n```text\n1\n```\n") == [Block(2, "print(1)\n", "1\n")]
    assert read_blocks("```python\nx = 1\n```\nWords.\n```text\n1\n```\n") == [Block(2, "x = 1\n", None)]
    run_block(Block(1, "print(1, 2)\n3\n", "1 ...\n3\n"), Path("a.md"), {})
    with pytest.raises(AssertionError, match="the page says that this prints\n2\n\nand it prints\n1\n"):
        run_block(Block(1, "print(1)\n", "2\n"), Path("a.md"), {})


def test_outputs_are_what_was_printed_and_the_last_value():
    class Drawn:
        def _repr_html_(self) -> str:
            return "<b>1</b>"

        def __repr__(self) -> str:
            return "Drawn()"

    printed, shown = run_block(Block(1, "print('a')\nDrawn()\n"), Path("a.md"), {"Drawn": Drawn})
    assert printed == {"output_type": "stream", "name": "stdout", "text": "a\n"}
    assert shown["data"] == {"text/plain": "Drawn()", "text/html": "<b>1</b>"}
    assert run_block(Block(1, "x = 1\n"), Path("a.md"), {}) == []


def test_lines_of_a_page_are_those_of_a_file_in_what_it_prints(tmp_path: Path):
    page = tmp_path / "a.md"
    page.write_text(f"```python\nx = 1\n```\n```python\ny = 2\nprint(r'{page}:5: y = 2')\n```\n", encoding="utf-8")
    _, [printed] = run_pages.run_page(page, {})
    assert printed["text"] == "model.py:1: y = 2\n"


@pytest.mark.parametrize(("code", "line"), [("x = 1\n1 / 0\n", 8), ("x = (\n", 7)], ids=["runtime", "syntax"])
def test_failure_names_file_and_line(code: str, line: int):
    with pytest.raises(AssertionError, match=rf"^README\.md:{line}: "):
        run_block(Block(7, code), Path("README.md"), {})
