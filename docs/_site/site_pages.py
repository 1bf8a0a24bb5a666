"""What the site makes of plain Markdown: the order of pages, tabs, links of names, notebooks.

On GitHub a page stays what it is. The order comes from the lists of index.md: a list below a heading is a part of the
site, a list below an item are the pages behind it. Tabs are what stands between `<!-- tab: linen -->`,
`<!-- tab: nnx -->` and `<!-- tabs end -->`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import as_notebook
import nbformat
import run_pages
import site_names
from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.util import logging

import naivenas_jax as nas

DOCS = Path(__file__).parents[1]
LOGGER = logging.getLogger(__name__)
ITEM = re.compile(r"^(?P<indent> *)- +\[(?P<title>[^]]+)\]\((?P<page>[\w/]+)\.md\)")
PAGE_LINK = re.compile(r"\[(?P<title>[^]]+)\]\((?P<page>[\w/]+)\.md\)")
FILE = re.compile(r"(?<=[ \n>])docs/(?P<page>[\w/]+)\.md(?=[\s.,)<])")
TAB = re.compile(r"<!-- *(?:tab: *(?P<title>.+?)|(?P<end>tabs end)) *-->")


class Entry(NamedTuple):
    """A page in the order of the site."""

    part: str
    parent: str
    title: str
    page: str


def entries() -> Iterator[Entry]:
    """All pages in order, from index.md."""
    part = parent = ""
    for line in (DOCS / "index.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            part = line.removeprefix("## ")
        elif item := ITEM.match(line):
            above = parent if item["indent"] else "index"
            yield Entry(part, above, item["title"], item["page"])
            parent = parent if item["indent"] else item["page"]


def add_toctrees(app: Sphinx, docname: str, source: list[str]) -> None:
    """Adds the pages behind a page, which is read again whenever the order changes."""
    app.env.note_dependency(str(DOCS / "index.md"))
    behind = [entry for entry in entries() if entry.parent == docname]
    for part in dict.fromkeys(entry.part for entry in behind):
        lines = [f"{entry.title} <{relative(entry.page, docname)}>" for entry in behind if entry.part == part]
        caption = f":caption: {part}\n" if docname == "index" else ""
        source[0] += "\n\n```{toctree}\n:hidden:\n" + caption + "\n" + "\n".join(lines) + "\n```\n"


def relative(page: str, docname: str) -> str:
    return "/" + page if "/" in docname or "/" in page else page


class Tabs(SphinxTransform):
    """Puts what stands between comments into tabs."""

    default_priority = 400

    def apply(self) -> None:
        for comment in list(self.document.findall(nodes.raw)):
            mark = TAB.fullmatch(comment.astext().strip())
            if mark and not mark["end"] and any(comment is child for child in comment.parent.children):
                gather(comment)


def gather(comment: nodes.raw) -> None:
    """Replaces a first comment and what follows it, up to the end of the tabs, by a set of tabs."""
    parent = comment.parent
    start = parent.index(comment)
    tabs = nodes.container("", is_div=True, design_component="tab-set", classes=["sd-tab-set"])
    content: nodes.container | None = None
    for node in list(parent.children[start:]):
        mark = TAB.fullmatch(node.astext().strip()) if isinstance(node, nodes.raw) else None
        parent.remove(node)
        if mark and mark["end"]:
            break
        if mark:
            content = nodes.container("", is_div=True, design_component="tab-content", classes=["sd-tab-content"])
            label = nodes.rubric(
                mark["title"], nodes.Text(mark["title"]), classes=["sd-tab-label"], sync_id=mark["title"]
            )
            label["sync_group"] = "tab"
            tabs += nodes.container(
                "", label, content, is_div=True, design_component="tab-item", classes=["sd-tab-item"]
            )
        elif content is not None and (len(content) or node.astext() != label.astext()):  # on GitHub a line says which
            content += node
    else:
        raise ValueError(f"{parent.source}: tabs without an end")
    parent.insert(start, tabs)


class Names(SphinxTransform):
    """Links names in inline code to the reference: `nas.save`, `mutation.carry(state)`, `new=nas.gradmax(loss)`."""

    default_priority = 410

    def apply(self) -> None:
        for literal in list(self.document.findall(nodes.literal)):
            if isinstance(literal.parent, nodes.reference | pending_xref):
                continue
            code = literal.astext()
            for name in site_names.unknown(code):
                LOGGER.warning("there is no %s, which the page names in code", name, location=literal)
            found = list(site_names.links(code))
            if len(found) == 1 and found[0].start == 0:
                link = self.link(found[0].target)
                literal.replace_self(link)
                link += literal
            elif found:
                literal.children = []
                literal += self.parts(code, found)

    def parts(self, code: str, found: list[site_names.Link]) -> Iterator[nodes.Node]:
        """The code, with a link in the place of each name."""
        done = 0
        for name in found:
            link = self.link(name.target)
            link += nodes.Text(code[name.start : name.end])
            yield from (nodes.Text(code[done : name.start]), link)
            done = name.end
        yield nodes.Text(code[done:])

    def link(self, target: str) -> pending_xref:
        return pending_xref(
            "",
            refdomain="py",
            reftype="obj",
            reftarget=target,
            refexplicit=True,
            refwarn=True,
            refdoc=self.env.docname,
        )


def write_notebooks(app: Sphinx, error: Exception | None) -> None:
    """Writes every page with code as a notebook that opens by itself."""
    if error or app.builder.name != "html":
        return
    for path in run_pages.pages():
        if path.is_relative_to(DOCS):
            file = (Path(app.outdir) / "notebooks" / path.relative_to(DOCS)).with_suffix(".ipynb")
            file.parent.mkdir(parents=True, exist_ok=True)
            nbformat.write(as_notebook.by_itself(path), file)


def offer_notebook(
    app: Sphinx, pagename: str, templatename: str, context: dict, doctree: nodes.document | None
) -> None:
    """Puts the link to the notebook at the end of a page."""
    page = DOCS / f"{pagename}.md"
    if "body" in context and page.exists() and run_pages.read_blocks(page.read_text(encoding="utf-8")):
        link = context["pathto"](f"notebooks/{pagename}.ipynb", 1)
        context["body"] += f'<p><a class="notebook-of-page" href="{link}" download>This page as a notebook</a></p>'


def link_code(app: Sphinx, pagename: str, templatename: str, context: dict, doctree: nodes.document | None) -> None:
    """Links the names of the library in blocks of code to the reference."""

    def link(found: re.Match[str]) -> str:
        name = found["name"]
        if name not in nas.__all__:
            return found[0]
        return f'<a class="name" href="{context["pathto"](f"reference/names/{name}")}">{found[0]}</a>'

    name = r'<span class="n">nas</span><span class="o">\.</span><span class="n">(?P<name>\w+)</span>'
    if "body" in context:
        context["body"] = re.sub(name, link, context["body"])


def link_files(app: Sphinx, pagename: str, templatename: str, context: dict, doctree: nodes.document | None) -> None:
    """Links pages that are named as files, `docs/layers.md`, as messages do."""

    def link(found: re.Match[str]) -> str:
        known = found["page"] in app.env.found_docs
        return f'<a href="{context["pathto"](found["page"])}">{found[0]}</a>' if known else found[0]

    if "body" in context:
        context["body"] = FILE.sub(link, context["body"])


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", add_toctrees)
    app.add_transform(Tabs)
    app.add_transform(Names)
    app.connect("build-finished", write_notebooks)
    app.connect("html-page-context", link_code)
    app.connect("html-page-context", link_files)
    app.connect("html-page-context", offer_notebook)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
