"""What the pages show is up to date: pictures, the gallery, an entry for every error, an order for every page."""

import re

import gallery
import pytest
import run_pages
import site_names
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


def inline_code() -> list[tuple[str, str]]:
    """Each piece of inline code, with the page that it stands on."""
    prose = re.compile(r"(?ms)^ *```.*?^ *```")
    return [
        (path.name, code)
        for path in [*DOCS.rglob("*.md"), run_pages.ROOT / "README.md"]
        for code in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", prose.sub("", path.read_text("utf-8")))
    ]


def test_names_in_inline_code_exist():
    """The site says so as well, and stops."""
    assert [(page, name) for page, code in inline_code() for name in site_names.unknown(code)] == []


@pytest.mark.parametrize(
    ("code", "targets"),
    [
        ("nas.resize", ["naivenas_jax.resize"]),
        ("nas.delta_nout(graph, variables, {})", ["naivenas_jax.delta_nout"]),
        ("mutation.check(x)", ["naivenas_jax.Mutation.check"]),
        ("mutation.graph.as_module()", ["naivenas_jax.Graph.as_module"]),
        ("mutation.plan", ["naivenas_jax.Mutation.plan"]),
        ("nas.fallback.keep", ["naivenas_jax.mutate.around.fallback.keep"]),
        ("utility=nas.comparable(graph, nas.magnitude(graph))", ["naivenas_jax.comparable", "naivenas_jax.magnitude"]),
        ("Plan.from_json(text)", ["naivenas_jax.Plan.from_json"]),
        ("insert_vertex", ["naivenas_jax.insert_vertex"]),
        ("fallback=", []),
        ("freeze_mask=3", []),
        ("size", []),
        ("graph.safetensors", []),
        ("naivenas_jax/graph/graph.py", []),
        ("module.apply(variables, x)", []),
    ],
)
def test_names_in_code_lead_to_the_reference(code: str, targets: list[str]):
    assert [link.target for link in site_names.links(code)] == targets


def test_names_that_do_not_exist_are_seen():
    assert site_names.unknown("nas.rezise(graph)") == ["nas.rezise"]
    assert site_names.unknown("new=nas.fallback.kept, nas.Plan.aply, nas.size") == [
        "nas.fallback.kept",
        "nas.Plan.aply",
    ]


def test_rules_for_words_are_of_words_that_are_explained():
    site_terms = pytest.importorskip("site_terms", reason="needs Sphinx", exc_type=ImportError)
    assert list(site_terms.unused(page("terminology.md"))) == []
    assert {"Neuron", "Axis", "Re-fit"} <= {term.name for term in site_terms.terms()}


@pytest.mark.parametrize("name", site_pictures.PICTURES)
def test_every_colour_of_a_picture_has_one_for_dark_pages(name: str):
    site_svgs = pytest.importorskip("site_svgs", reason="needs Sphinx", exc_type=ImportError)
    svg = site_svgs.themed(site_pictures.PICTURES[name](), "what it shows")
    styles = page("_static/site.css")
    assert not re.search(r'(?:fill|stroke)="(?!none|var)', svg)
    assert all(styles.count(f"{name}:") == 3 for name in re.findall(r"var\((.*?)\)", svg))
    assert 'role="img" aria-label="what it shows"' in svg


def test_methods_that_a_class_inherits_are_on_its_page():
    site_reference = pytest.importorskip("site_reference", reason="needs Sphinx", exc_type=ImportError)
    assert ":inherited-members:" in site_reference.page_of("Graph")  # nin, nout, find, as_module, ...
    assert ":inherited-members:" not in site_reference.page_of("GraphError")
