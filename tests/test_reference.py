"""Every public name has a row in exactly one part of the reference, and the index leads to every page of docs/."""

import re
from collections import Counter
from pathlib import Path

import naivenas_jax as nas

DOCS = Path(__file__).parents[1] / "docs"
ROW = re.compile(r"^\| `nas\.(\w+)` \|", re.MULTILINE)


def public() -> set[str]:
    return set(nas.__all__)


def test_every_public_name_is_in_one_part():
    rows = Counter(name for page in (DOCS / "reference").glob("*.md") for name in ROW.findall(page.read_text("utf-8")))
    assert sorted(public() - set(rows)) == [], "has no row in docs/reference"
    assert sorted(set(rows) - public()) == [], "has a row in docs/reference, but is not public"
    assert [name for name, count in rows.items() if count > 1] == []


def test_links_of_docs_lead_somewhere():
    broken = [
        f"{page.relative_to(DOCS.parent)}: {link}"
        for page in [DOCS.parent / "README.md", *DOCS.rglob("*.md")]
        for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text("utf-8"))
        if not (page.parent / link).exists()
    ]
    assert broken == []


def test_index_links_every_page():
    linked = set(re.findall(r"\]\(([^)#:\s]+)", (DOCS / "index.md").read_text("utf-8")))
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} - {"index.md"}
    assert sorted(pages - linked) == []
