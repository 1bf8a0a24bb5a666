"""A page in Markdown as a notebook: its prose, its code, and what the code printed and showed."""

import base64
import re
from pathlib import Path

import nbformat
import run_pages

KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
KINDS = {".svg": "image/svg+xml", ".png": "image/png"}
LANGUAGE = {"language_info": {"name": "python", "pygments_lexer": "python", "file_extension": ".py"}}


def read(text: str) -> nbformat.NotebookNode:
    """Called by MyST-NB for every page."""
    outputs = run_pages.recorded(text)
    if outputs is None:
        if run_pages.read_blocks(text):
            raise RuntimeError("the code of this page has not run yet: pytest tests/test_docs.py does so (nox -s site)")
        outputs = []
    cells, lines, end, left = [], [], 0, iter(outputs)
    for match in run_pages.BLOCK.finditer(text):
        if not run_pages.runs(match):
            continue
        if match["indent"]:  # in a list, which a cell cannot be: shown without its output
            next(left)
            continue
        add(cells, lines, text, end, match.start())
        cells.append(nbformat.v4.new_code_cell(match["code"].rstrip("\n"), outputs=list(map(output, next(left)))))
        lines.append(text.count("\n", 0, match.start()))
        end = match.end()
    add(cells, lines, text, end, len(text))
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"  # the same at every build
    count = 0
    for cell in cells:
        if cell.cell_type == "code":
            cell.execution_count = count = count + 1
    return nbformat.v4.new_notebook(cells=cells, metadata={**KERNEL, **LANGUAGE, "source_map": lines})


def output(stored: dict) -> nbformat.NotebookNode:
    return nbformat.from_dict(stored)


def add(cells: list, lines: list[int], text: str, start: int, stop: int) -> None:
    """Adds the prose between two blocks."""
    prose = text[start:stop]
    if not prose.strip():
        return
    blank = len(prose) - len(prose.lstrip("\n"))
    cells.append(nbformat.v4.new_markdown_cell(prose.strip("\n")))
    lines.append(text.count("\n", 0, start + blank))


def without_links(prose: str) -> str:
    """A notebook by itself has no pages beside it, and no tabs."""
    prose = re.sub(r"<!--.*?-->\n*", "", prose)
    return re.sub(r"(?<!!)\[([^]]+)\]\((?!http)[^)]*\)", r"\1", prose)


def attach(cell: nbformat.NotebookNode, folder: Path) -> None:
    """Puts the pictures of a cell into it."""
    for name in re.findall(r"!\[[^]]*\]\((?!http)([^)]+\.(?:svg|png))\)", cell.source):
        cell.source = cell.source.replace(f"({name})", f"(attachment:{Path(name).name})")
        picture = base64.b64encode((folder / name).read_bytes()).decode()
        cell.setdefault("attachments", {})[Path(name).name] = {KINDS[Path(name).suffix]: picture}


def by_itself(path: Path) -> nbformat.NotebookNode:
    """A page as a notebook to be downloaded: its pictures are inside, its links to other pages are plain text."""
    notebook = read(path.read_text(encoding="utf-8"))
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = without_links(cell.source)
            attach(cell, path.parent)
    return notebook
