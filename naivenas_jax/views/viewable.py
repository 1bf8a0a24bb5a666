"""What notebooks, rich and treescope ask a value for, answered from its view."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import RenderableType

from naivenas_jax.views.as_html import as_html
from naivenas_jax.views.as_text import as_rich, as_text
from naivenas_jax.views.view import view

if TYPE_CHECKING:
    from treescope.renderers import TreescopeSubtreeRenderer
    from treescope.rendering_parts import Rendering


class Viewable:
    """A value that shows itself: as the last line of a cell, in a terminal with rich, and in treescope."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        return as_html(view(self))

    def __rich__(self) -> RenderableType:
        return as_rich(view(self))

    def __treescope_repr__(self, path: str | None, subtree_renderer: TreescopeSubtreeRenderer) -> Rendering:
        from naivenas_jax.views.as_treescope import as_treescope  # treescope need not be there

        return as_treescope(self, view(self), path, subtree_renderer)


class Printable(Viewable):
    """A value whose text, too, is its view."""

    __slots__ = ()

    def __str__(self) -> str:
        return as_text(as_rich(view(self)))
