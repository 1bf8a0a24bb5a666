"""What the pages show is up to date: pictures, the gallery, an entry for every error, an order for every page."""

import re

import gallery
import pytest
import run_pages
import site_pictures

import naivenas_jax as nas

DOCS = run_pages.ROOT / "docs"


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", site_pictures.PICTURES)
def test_pictures_are_those_that_the_script_draws(name: str):
    assert page(f"pictures/{name.rstrip('_')}.svg") == site_pictures.PICTURES[name](), (
        "python docs/_site/site_pictures.py"
    )


def test_the_gallery_has_the_models_of_the_zoo():
    assert gallery.page(page("gallery.md")) == page("gallery.md"), "python docs/_site/gallery.py"


def test_every_error_has_an_entry_in_troubleshooting():
    errors = {
        name
        for name in nas.__all__
        if isinstance(getattr(nas, name), type) and issubclass(getattr(nas, name), Exception)
    }
    rows = re.findall(r"(?m)^\| `nas\.(\w+)` \|", page("troubleshooting.md"))
    assert sorted(rows) == sorted(errors - {"NaiveNASError"})


def test_no_page_is_in_the_place_of_one_of_sphinx():
    assert not {"search", "genindex", "py-modindex"} & {path.stem for path in DOCS.glob("*.md")}


def test_files_that_pages_name_exist():
    file = re.compile(r"`(?!docs/_build/)((?:naivenas_jax|tests|docs|examples|benchmarks)/[\w./]+\.\w+)")
    named = [
        (path.name, name)
        for path in [*DOCS.glob("*.md"), *(DOCS / "design").glob("*.md"), run_pages.ROOT / "README.md"]
        for name in file.findall(path.read_text("utf-8"))
    ]
    assert [(where, name) for where, name in named if not (run_pages.ROOT / name).exists()] == []
