"""How Sphinx builds the site: `nox -s site`. docs/design/site.md says why so."""

import sys
from importlib.metadata import version as version_of
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent / "_site"), str(Path(__file__).parents[1])]

project = "naivenas_jax"
author = "The naivenas_jax authors"
copyright = author
release = version = version_of("naivenas_jax")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "site_pages",
    "site_reference",
    "site_svgs",
    "site_terms",
]
exclude_patterns = ["_build", "_site"]

# Pages are plain Markdown, whose code has run already: tests/test_docs.py does so.
nb_custom_formats = {".md": ["as_notebook.read", {}]}
nb_execution_mode = "off"
nb_mime_priority_overrides = [("html", "image/svg+xml", 0), ("html", "text/html", 5)]
myst_heading_anchors = 4
myst_enable_extensions = ["dollarmath"]

default_role = "py:obj"  # a name in single backticks in a docstring
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_class_signature = "mixed"
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
napoleon_custom_sections = [("Keyword Args", "params_style"), ("What helps", "notes_style")]
napoleon_use_param = napoleon_use_keyword = napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_attr_annotations = False  # shapes such as "*shape" are no reStructuredText; the signature has the types
maximum_signature_line_length = 88

html_theme = "furo"
html_title = "naivenas_jax"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = html_show_sourcelink = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#8a3b00", "color-brand-content": "#8a3b00"},
    "dark_css_variables": {"color-brand-primary": "#ffb37a", "color-brand-content": "#ffb37a"},
    "navigation_with_keys": True,
}
copybutton_exclude = ".linenos, .gp, .go"
