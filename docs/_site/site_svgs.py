"""Puts the pictures that site_pictures.py draws into the pages themselves, in colours of the page's theme.

A picture beside a page knows nothing of the page: on a dark one it would be a white sheet. GitHub shows the files as
they are, with a ground of their own, and so does whatever else reads them.
"""

from __future__ import annotations

import re

import site_pictures
from docutils import nodes
from sphinx.application import Sphinx

IMAGE = re.compile(r'<img alt="(?P<says>[^"]*)"[^>]* src="[^"]*_images/(?P<name>\w+)\.svg"[^>]*/?>')
PAINT = re.compile(r'(?P<what>fill|stroke)="(?P<colour>white|#[0-9a-f]{6})"')
#: What site.css calls a colour, for light pages and for dark ones.
NAMES = {
    "white": "ground",
    "#ffffff": "ground",
    site_pictures.INK: "ink",
    site_pictures.FAINT: "faint",
    "#777777": "faint",
    "#f3f5f6": "box",
    **{colour: f"neuron-{number}" for number, colour in enumerate(site_pictures.COLOURS)},
}


def themed(svg: str, says: str) -> str:
    """A picture as a part of a page: with names in the place of colours, and what it shows for those who listen."""
    svg = PAINT.sub(lambda found: f'{found["what"]}="var(--nas-{NAMES[found["colour"]]})"', svg)
    return svg.strip().replace("<svg ", f'<svg class="nas-picture" role="img" aria-label="{says}" ', 1)


def picture(name: str, says: str) -> str:
    """A picture of site_pictures.py, and the one for narrow windows if there is one: site.css shows one of the two."""
    wide, narrow = (site_pictures.FOLDER / f"{name}{kind}.svg" for kind in ("", "_narrow"))
    svg = themed(wide.read_text(encoding="utf-8"), says)
    if not narrow.exists():
        return svg
    other = themed(narrow.read_text(encoding="utf-8"), says).replace('id="arrow"', 'id="arrow-narrow"')
    other = other.replace("url(#arrow)", "url(#arrow-narrow)").replace("nas-picture", "nas-picture narrow", 1)
    return svg.replace("nas-picture", "nas-picture wide", 1) + other


def put_in(app: Sphinx, pagename: str, templatename: str, context: dict, doctree: nodes.document | None) -> None:
    """Replaces the pictures of a page that are drawn by site_pictures.py."""

    def replaced(image: re.Match[str]) -> str:
        known = image["name"] in {name.rstrip("_") for name in site_pictures.PICTURES}
        return picture(image["name"], image["says"]) if known else image[0]

    if "body" in context:
        context["body"] = IMAGE.sub(replaced, context["body"])


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("html-page-context", put_in)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
