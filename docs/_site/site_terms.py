"""Links each word of ours, where a page has it for the first time, to what terminology.md says of it.

Words stand in running text; in headings, code, links and captions they are left alone. Pages stay plain Markdown. A
word that everybody uses (a run, a place, a step) is no link: on most pages it means nothing special.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple, cast

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.domains.std import StandardDomain
from sphinx.transforms import SphinxTransform

PAGE = "terminology"
SOURCE = Path(__file__).parents[1] / f"{PAGE}.md"
ITEM = re.compile(r"^- \*\*(?P<term>[^*]+)\*\*:(?P<text>.*?)(?=^- \*\*|^#|\Z)", re.DOTALL | re.MULTILINE)
WITHOUT = ("reference/names/", "changelog", PAGE)  # pages that say what a name is, or list changes
EVERYDAY = {
    "class",
    "constant",
    "depth",
    "edge",
    "factor",
    "fixed",
    "gap",
    "gate",
    "graph",
    "group",
    "history",
    "objective",
    "op",
    "outcome",
    "place",
    "port",
    "program",
    "reach",
    "role",
    "rule",
    "run",
    "step",
    "tape",
    "undo",
    "variables",
    "vocabulary",
}
FORMS = {
    "axis": "axis|axes",
    "carry": "carry|carries|carried",
    "coupled": "coupled",
    "immutable": "immutable",
    "re-fit": "re-fit|re-fits|re-fitted|re-fitting",
    "rebuild": "rebuild|rebuilt|rebuilds",
    "scores": "score|scores",
    "tie": "tie|ties|tied",
    "utility": "utility|utilities",
    "vertex": "vertex|vertices",
}
#: What text must not lie in to be running text.
APART = (nodes.literal, nodes.literal_block, nodes.reference, pending_xref, nodes.title, nodes.raw, nodes.rubric)


class Term(NamedTuple):
    """A word of ours, in all its forms, and the first sentence on it."""

    name: str
    forms: re.Pattern[str]
    says: str

    @property
    def anchor(self) -> str:
        return "term-" + re.sub(r"\W+", "-", self.name.lower())


def plain(markdown: str) -> str:
    """The first sentence of a definition, without its marks."""
    text = re.sub(r"[*`]|\[|\]\([^)]*\)", "", " ".join(markdown.split()))
    return re.split(r"(?<=[.;]) ", text)[0].rstrip(";")


@cache
def terms() -> tuple[Term, ...]:
    """All terms, the longest first, so that "soft network" is not taken for a network."""
    made = []
    for item in ITEM.finditer(SOURCE.read_text(encoding="utf-8")):
        name = item["term"]
        forms = FORMS.get(name.lower(), rf"{re.escape(name.lower())}s?")
        made.append(Term(name, re.compile(rf"(?<![\w/.-])(?i:{forms})(?![\w/-]|\.\w)"), plain(item["text"])))
    return tuple(sorted(made, key=lambda term: -len(term.name)))


class Defined(SphinxTransform):
    """Gives each definition of terminology.md an anchor, and makes it known to Sphinx."""

    default_priority = 415

    def apply(self) -> None:
        if self.env.docname != PAGE:
            return
        known = {term.name: term for term in terms()}
        domain = cast(StandardDomain, self.env.get_domain("std"))
        for strong in list(self.document.findall(nodes.strong)):
            term = known.get(strong.astext())
            if term and strong.parent.astext().startswith(f"{term.name}:") and term.anchor not in self.document.ids:
                strong["ids"].append(term.anchor)
                self.document.note_explicit_target(strong)
                domain.note_object("term", term.name, term.anchor, location=strong)


class FirstUses(SphinxTransform):
    """Makes the first use of each term on a page a link to its definition."""

    default_priority = 420  # behind the names in code

    def apply(self) -> None:
        if self.env.docname.startswith(WITHOUT):
            return
        self.env.note_dependency(str(SOURCE))
        left = [term for term in terms() if term.name.lower() not in EVERYDAY]
        for text in list(self.document.findall(nodes.Text)):
            if running(text):
                made, left = linked(str(text), left, self.env.docname)
                if len(made) > 1:
                    text.parent.replace(text, made)


def running(text: nodes.Text) -> bool:
    """Whether a piece of text is part of what is read from line to line."""
    node: nodes.Node | None = text.parent
    inside = False
    while node is not None:
        if isinstance(node, APART):
            return False
        inside = inside or isinstance(node, nodes.paragraph)
        node = node.parent
    return inside


def linked(text: str, left: list[Term], docname: str) -> tuple[list[nodes.Node], list[Term]]:
    """A piece of text with links, and the terms that have had none yet."""
    found = {}
    for term in left:
        for use in term.forms.finditer(text):
            if not any(use.start() < end and start < use.end() for start, end in found):
                found[use.span()] = term
                break
    made: list[nodes.Node] = []
    done = 0
    for (start, end), term in sorted(found.items()):
        made += [nodes.Text(text[done:start]), link(term, text[start:end], docname)]
        done = end
    return [*made, nodes.Text(text[done:])], [term for term in left if term not in found.values()]


def link(term: Term, word: str, docname: str) -> pending_xref:
    made = pending_xref(
        "",
        refdomain="std",
        reftype="term",
        reftarget=term.name,
        refexplicit=True,
        refwarn=True,
        refdoc=docname,
    )
    made += nodes.inline(word, word, classes=["term-use"])
    return made


def explain(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Puts the first sentence of a definition where a reader points at the word."""
    said = {term.anchor: term.says for term in terms()}
    for reference in doctree.findall(nodes.reference):
        where = reference.get("refuri", "").partition("#")[2] or reference.get("refid", "")
        if where in said:
            reference["reftitle"] = said[where]


def unused(page: str) -> Iterator[str]:
    """Names in `EVERYDAY` and `FORMS` that are no terms of a page."""
    known = {item["term"].lower() for item in ITEM.finditer(page)}
    yield from sorted((EVERYDAY | FORMS.keys()) - known)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_transform(Defined)
    app.add_transform(FirstUses)
    app.connect("doctree-resolved", explain)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
