"""Views in treescope, which shows trees of Python values that can be folded; `flax.nnx.display` uses it."""

from __future__ import annotations

from treescope import rendering_parts as parts
from treescope.renderers import TreescopeSubtreeRenderer

from naivenas_jax.views.as_html import as_html
from naivenas_jax.views.as_text import as_rich, as_text
from naivenas_jax.views.view import View


def as_treescope(
    value: object, shown: View, path: str | None, subtree_renderer: TreescopeSubtreeRenderer
) -> parts.Rendering:
    """A value as a node: its repr in one line, and its view when it is unfolded.

    Args:
      value: the value.
      shown: its view.
      path: where it lies in the tree.
      subtree_renderer: shows other values; not needed.
    """
    del subtree_renderer
    text = parts.siblings(
        *(parts.on_separate_lines([parts.text(line)]) for line in as_text(as_rich(shown)).splitlines())
    )
    return parts.build_foldable_tree_node_from_children(
        prefix=parts.text(f"<{repr(value).splitlines()[0]}"),
        children=[parts.embedded_iframe(embedded_html=as_html(shown), fallback_in_text_mode=text)],
        suffix=parts.text(">"),
        path=path,
    )
