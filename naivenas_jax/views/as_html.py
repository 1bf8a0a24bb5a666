"""Views as HTML, for notebooks and pages, light or dark."""

from __future__ import annotations

from html import escape

from naivenas_jax.views.view import Part, Picture, Table, View, Words

#: Colours of the page shine through, so that nothing here has to know whether it is dark.
_STYLE = (
    "<style>.naivenas{font-size:13px;line-height:1.4}"
    ".naivenas table{font-size:inherit;color:inherit;border-collapse:collapse;margin:4px 0}"
    ".naivenas caption{text-align:left;font-weight:600;padding:2px 0}"
    ".naivenas th,.naivenas td{padding:2px 10px;text-align:left;vertical-align:top;max-width:32em;"
    "overflow-wrap:break-word;border-bottom:1px solid rgba(128,128,128,.35)}"
    ".naivenas td.number,.naivenas th.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}"
    ".naivenas p{margin:4px 0}.naivenas .rows{max-height:480px;overflow:auto}"
    ".naivenas .picture{max-height:720px;overflow:auto}</style>"
)


def as_html(shown: View) -> str:
    """A view as a piece of HTML. Whatever a user has named is escaped, and the same view gives the same text.

    Args:
      shown: the view.

    >>> print(as_html((Words(("a < b",)),)).partition("</style>")[2])
    <p>a &lt; b</p></div>
    """
    return f'<div class="naivenas">{_STYLE}{"".join(map(_part, shown))}</div>'


def _part(part: Part) -> str:
    match part:
        case Words(lines, heading):
            text = "<br>".join(map(escape, lines))
            return f"<p><strong>{text}</strong></p>" if heading else f"<p>{text}</p>"
        case Table():
            return _table(part)
        case Picture():
            return f'<div class="picture">{part.svg()}</div>'


def _table(table: Table) -> str:
    def cells(row: tuple[str, ...], kind: str) -> str:
        sides = (' class="number"' if i in table.numbers else "" for i in range(len(row)))
        scope = ' scope="col"' if kind == "th" else ""
        return "".join(f"<{kind}{scope}{side}>{escape(cell)}</{kind}>" for side, cell in zip(sides, row, strict=True))

    caption = f"<caption>{escape(table.title)}</caption>" if table.title else ""
    head = f"<thead><tr>{cells(table.columns, 'th')}</tr></thead>"
    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in table.rows)
    return f'<div class="rows"><table>{caption}{head}<tbody>{body}</tbody></table></div>'
