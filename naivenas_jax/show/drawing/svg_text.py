"""A drawing as SVG: text, without a program that draws."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from naivenas_jax.show.drawing.drawing import Box, Drawing, Mark, Neurons, Row, folded, stacked
from naivenas_jax.show.drawing.nested import Line, Rect, lay_out

#: Colours that people tell apart whatever their sight (Okabe and Ito, "Color universal design", 2008), each with the
#: colour of letters on it.
_TIES = (
    ("#56B4E9", "#000"),
    ("#E69F00", "#000"),
    ("#009E73", "#fff"),
    ("#CC79A7", "#000"),
    ("#F0E442", "#000"),
    ("#0072B2", "#fff"),
    ("#D55E00", "#fff"),
    ("#999933", "#000"),
)
_MARKS: dict[Mark, str] = {"new": "var(--new)", "gone": "var(--gone)", "changed": "var(--changed)"}
_SIGNS: dict[Mark, str] = {"": "", "new": "+ ", "gone": "− ", "changed": ""}
_FATES = {
    "kept": '<rect class="kept" {place}/>',
    "dropped": '<rect class="paper" {place} style="stroke:var(--gone)" stroke-dasharray="3 2"/>',
    "new": '<rect {place} style="fill:var(--new)"/>',
}
_ROW, _SWATCH, _MARGIN, _LONGEST = 20.0, 30.0, 10.0, 46
_DARK = (
    "{--ink:#e6edf3;--faint:#a8b3bf;--paper:#161b22;--box:#22272e;--rim:#768390;"
    "--module:rgba(140,150,165,.13);--line:#8b98a6;--frozen:#59626d;--kept:#77828e;"
    "--new:#56B4E9;--gone:#ff8a3d;--changed:#c39bea}"
)
_STYLE = (
    "<style>.nas-drawing{--ink:#1c2127;--faint:#5a6470;--paper:#fff;--box:#f6f8fa;--rim:#8b949e;--module:rgba(110,118,"
    "129,.09);--line:#768390;--frozen:#b4bac1;--kept:#8c97a2;"
    "--new:#0072B2;--gone:#D55E00;--changed:#7b4ea3}"
    '[data-jp-theme-light="false"] .nas-drawing,.vscode-dark .nas-drawing,[data-theme="dark"] .nas-drawing,'
    f"[theme=dark] .nas-drawing{_DARK}"
    f'@media (prefers-color-scheme:dark){{[data-theme="auto"] .nas-drawing{_DARK}}}'  # the reader's system decides
    ".nas-drawing text{fill:var(--ink);font:12px system-ui,'Segoe UI',Helvetica,Arial,sans-serif}"
    ".nas-drawing .faint{fill:var(--faint)}.nas-drawing .name{font-weight:600}"
    ".nas-drawing .small{font-size:10px}.nas-drawing .box{fill:var(--box);stroke:var(--rim)}"
    ".nas-drawing .module{fill:var(--module);stroke:var(--rim);stroke-opacity:.5}"
    ".nas-drawing .line{fill:none;stroke:var(--line);stroke-width:1.4}.nas-drawing .head{fill:var(--line)}"
    ".nas-drawing .pill{fill:var(--paper);stroke:var(--line);stroke-opacity:.45}"
    ".nas-drawing .kept{fill:var(--kept)}"
    ".nas-drawing .frozen{fill:var(--frozen)}.nas-drawing .paper{fill:var(--paper)}</style>"
)


def svg_text(drawing: Drawing) -> str:
    """The drawing as the text of an SVG image.

    Tied neurons have one colour and one letter, frozen ones are grey. Long networks are drawn with chains of vertices
    as one box, and with the insides of the deepest modules left out.

    Args:
      drawing: the drawing.

    >>> from naivenas_jax.show.drawing.drawing import Edge
    >>> boxes = Box("a", (Row("a<b", "Dense"),)), Box("b", (Row("b", "relu"),))
    >>> text = svg_text(Drawing("a network", boxes, (Edge("a", "b"),)))
    >>> text[:4], "a&lt;b" in text, "<title>a network</title>" in text
    ('<svg', True, True)
    """
    shown = stacked(folded(drawing))
    layout, width, height = lay_out(shown, _size)
    boxes = {box.key: box for box in shown.boxes}
    legend, legend_width = _legend(shown, 16.0)
    total = max(width, legend_width) + 2 * _MARGIN
    left = (total - width) / 2
    parts = [
        *(_module(path, rect) for path, rect in sorted(layout.modules.items(), key=lambda item: len(item[0]))),
        *(_line(line) for line in layout.lines),
        *(_box(boxes[key], rect) for key, rect in layout.boxes.items()),
        *_sizes(boxes, layout.lines),
    ]
    top = 32.0 if legend else _MARGIN
    full = height + top + _MARGIN
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="nas-drawing" role="img" width="{total:.0f}" '
        f'height="{full:.0f}" viewBox="0 0 {total:.0f} {full:.0f}">'
    )
    words = f"<title>{escape(drawing.title)}</title><desc>{escape(_described(drawing))}</desc>"
    return f'{head}{words}{_STYLE}<g transform="translate({left:.1f} {top:.0f})">{"".join(parts)}</g>{legend}</svg>'


def _described(drawing: Drawing) -> str:
    """The drawing in words, for those who do not see it."""
    names = {box.key: box.rows[-1].name for box in drawing.boxes}
    read: dict[str, list[str]] = {}
    for edge in drawing.edges:
        read.setdefault(edge.target, []).append(names[edge.source])
    found = []
    for box in drawing.boxes:
        row = box.rows[-1]
        reads = f" reads {', '.join(read[box.key])}" if box.key in read else ""
        size = f", {row.size} neurons" if row.size else ""
        mark = f", {row.mark}" if row.mark else ""
        found.append(f"{row.name}: {row.words}{size}{mark}{reads}.")
    return "\n".join(found)


def _width(text: str, size: float = 12.0) -> float:
    """About how wide a text is; letters differ with the font."""
    narrow, wide = sum(c in "ijlt.,:;|'()[]! fr" for c in text), sum(c in "mwMWQOGCDHNU@%—→" for c in text)
    return size * (0.62 * len(text) - 0.24 * narrow + 0.22 * wide)


def _shortened(text: str, longest: int = _LONGEST) -> str:
    return text if len(text) <= longest else f"{text[: longest // 2]}…{text[-(longest // 2 - 1) :]}"


def _label(row: Row) -> tuple[str, str]:
    return _SIGNS[row.mark] + _shortened(row.name), _shortened(row.words)


def _size(box: Box) -> tuple[float, float]:
    """How large a box is drawn."""
    if box.kind == "operation":
        return max(24.0, _width(box.rows[0].name) + 14), 24.0
    many = len(box.rows) > 1
    widths = []
    for row in box.rows:
        name, words = _label(row)
        beside = _width(row.size) + 14 if many or row.mark == "changed" else 0.0
        widths.append(_width(name, 12.6) + (_width(words) + 8 if words else 0) + beside)
    return max(widths) + (_SWATCH + 6 if any(row.neurons for row in box.rows) else 0.0) + 20, _ROW * len(box.rows) + 8


def _box(box: Box, rect: Rect) -> str:
    """A box with its rows."""
    marks = {row.mark for row in box.rows}
    mark: Mark = marks.pop() if len(marks) == 1 else "changed" if marks - {""} else ""
    rim = f' style="stroke:{_MARKS[mark]};stroke-width:2"' if mark else ""
    rim += ' stroke-dasharray="5 3"' if mark == "gone" else ""
    x, y, width, height = rect
    title = escape("\n".join(_told(row) for row in box.rows))
    round_ = height / 2 if box.kind != "layer" else 5
    shape = (
        f'<rect class="box" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{round_:.0f}"{rim}/>'
    )
    if box.kind == "operation":
        middle = (
            f'<text x="{x + width / 2:.1f}" y="{y + 16.5:.1f}" text-anchor="middle">{escape(box.rows[0].name)}</text>'
        )
        return f"<g><title>{title}</title>{shape}{middle}</g>"
    inner = "".join(_row(row, Rect(x, y + 4 + _ROW * i, width, _ROW), len(box.rows)) for i, row in enumerate(box.rows))
    return f"<g><title>{title}</title>{shape}{inner}</g>"


def _told(row: Row) -> str:
    """What a pointer over a row shows."""
    ties = [f"{each.size} neurons: {_tie_words(each)}" for each in row.neurons]
    return "\n".join(filter(None, [f"{row.name}: {row.words}", row.size and f"size {row.size}", *ties, row.remark]))


def _tie_words(own: Neurons) -> str:
    if own.fate:
        return own.fate
    if own.frozen:
        return f"frozen: {own.frozen}"
    return f"tied ({_letter(own.tie)})" if own.tie >= 0 else "tied to nothing else"


def tie_words(neurons: Sequence[Neurons]) -> str:
    """What is tied and what is frozen, in a few letters.

    >>> tie_words((Neurons(3, 0), Neurons(2, frozen="it is immutable")))
    'A frozen'
    """
    return " ".join("frozen" if each.frozen else _letter(each.tie) if each.tie >= 0 else "–" for each in neurons)


def _row(row: Row, at: Rect, rows: int) -> str:
    name, words = _label(row)
    left, middle = at.x + 10, at.y + _ROW / 2
    found = []
    if row.neurons:
        found.append(_swatch(row.neurons, left, middle))
        left += _SWATCH + 6
    colour = f' style="fill:{_MARKS[row.mark]}"' if row.mark in ("new", "gone") else ""
    struck = ' text-decoration="line-through"' if row.mark == "gone" else ""
    said = f'<tspan class="name"{colour}{struck}>{escape(name)}</tspan>'
    if words:
        said += f'<tspan class="faint" dx="7">{escape(words)}</tspan>'
    found.append(f'<text x="{left:.1f}" y="{middle + 4:.1f}">{said}</text>')
    if rows > 1 or row.mark == "changed":
        bold = f' class="name" style="fill:{_MARKS["changed"]}"' if row.mark == "changed" else ""
        end = at.x + at.width - 10
        found.append(f'<text x="{end:.1f}" y="{middle + 4:.1f}" text-anchor="end"{bold}>{escape(row.size)}</text>')
    return "".join(found)


def _swatch(neurons: Sequence[Neurons], x: float, middle: float) -> str:
    """The neurons of a vertex as a bar, each tie in its colour and with its letter."""
    total = sum(each.size for each in neurons) or 1
    found, at = [], x
    for own in neurons:
        wide = max(_SWATCH * own.size / total, 2.0)
        fill, ink = _TIES[own.tie % len(_TIES)] if own.tie >= 0 else ("", "")
        place = f'x="{at:.1f}" y="{middle - 6:.1f}" width="{wide:.1f}" height="12"'
        if own.fate:
            found.append(_FATES[own.fate].format(place=place))
        elif own.frozen:
            found.append(f'<rect class="frozen" {place}/>')
        elif own.tie < 0:
            found.append(f'<rect class="pill" {place}/>')
        else:
            found.append(f'<rect {place} fill="{fill}"/>')
            letter = _letter(own.tie)
            if wide > 7 * len(letter) + 2:
                found.append(
                    f'<text class="small" x="{at + wide / 2:.1f}" y="{middle + 3.5:.1f}" text-anchor="middle" '
                    f'style="fill:{ink}">{letter}</text>'
                )
        at += wide
    return "".join(found)


def _letter(number: int) -> str:
    """A, B, ..., Z, AA, AB, ...

    >>> _letter(0), _letter(25), _letter(26)
    ('A', 'Z', 'AA')
    """
    rest, last = divmod(number, 26)
    return (_letter(rest - 1) if rest else "") + chr(65 + last)


def _module(path: tuple[str, ...], rect: Rect) -> str:
    x, y, width, height = rect
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="8"'
    name = escape(_shortened(path[-1], max(int(width / 7), 8)))
    return (
        f'<g><title>{escape("/".join(path))}</title><rect class="module" {place}/>'
        f'<text class="faint small" x="{x + 9:.1f}" y="{y + 14:.1f}">{name}</text></g>'
    )


def _line(line: Line) -> str:
    """A smooth line through its points, downwards at each of them, with a head if it ends at a box."""
    points = list(line.points)
    colour = f' style="stroke:{_MARKS[line.mark]};stroke-width:2.2"' if line.mark else ""
    dashes = ' stroke-dasharray="5 4"' if line.mark == "gone" else ""
    x, y = points[0]
    found = [f"M{x:.1f} {y:.1f}"]
    last = len(points) - 1
    for i, (px, py) in enumerate(points[1:], 1):
        end = py - (6 if i == last and line.ends else 0)
        bend = (end - y) / 2
        straight = abs(px - x) < 0.05
        found.append(
            f"V{end:.1f}" if straight else f"C{x:.1f} {y + bend:.1f} {px:.1f} {end - bend:.1f} {px:.1f} {end:.1f}"
        )
        x, y = px, end
    head = ""
    if line.ends:
        px, py = points[-1]
        fill = f' style="fill:{_MARKS[line.mark]}"' if line.mark else ""
        head = f'<path class="head" d="M{px:.1f} {py:.1f}l-4 -7h8z"{fill}/>'
    return f'<path class="line" d="{"".join(found)}"{colour}{dashes}/>{head}'


def _sizes(boxes: dict[str, Box], lines: Sequence[Line]) -> Iterator[str]:
    """The number of neurons beside the lines that leave a box."""
    done = set()
    for line in lines:
        row = boxes[line.source].rows[-1]
        if not line.begins or not row.size or (line.source, line.points[0]) in done:
            continue
        done.add((line.source, line.points[0]))
        x, y = line.points[0]
        wide = _width(row.size, 10) + 8
        yield (
            f'<rect class="pill" x="{x - wide / 2:.1f}" y="{y + 4:.1f}" width="{wide:.1f}" height="13" rx="6"/>'
            f'<text class="small" x="{x:.1f}" y="{y + 14:.1f}" text-anchor="middle">{escape(row.size)}</text>'
        )


def _legend(drawing: Drawing, y: float) -> tuple[str, float]:
    """What the colours say, as far as they occur; and how wide that is."""
    neurons = [each for row in drawing.rows() for each in row.neurons]
    marks = [*(row.mark for row in drawing.rows()), *(edge.mark for edge in drawing.edges)]
    plain = [each for each in neurons if not each.fate]
    tied = [each for each in plain if each.tie >= 0 and not each.frozen]
    entries: list[tuple[str, str]] = []
    if tied:
        entries.append((_swatch((Neurons(1, tied[0].tie),), 0, 0), "the same letter: tied, changes together"))
    if any(each.frozen for each in plain):
        entries.append((_swatch((Neurons(1, -1, "frozen"),), 0, 0), "keeps its size"))
    if any(each.tie < 0 and not each.frozen for each in plain):
        entries.append((_swatch((Neurons(1),), 0, 0), "tied to nothing else"))
    for fate in ("kept", "dropped", "new"):
        if any(each.fate == fate for each in neurons):
            entries.append((_swatch((Neurons(1, fate=fate),), 0, 0), f"neurons {fate}"))
    words = {"new": "+ new", "gone": "− removed", "changed": "another size or computation"}
    for mark in ("new", "gone", "changed"):
        if mark in marks:
            bar = f'<rect x="0" y="-2" width="{_SWATCH}" height="4" style="fill:{_MARKS[mark]}"/>'
            entries.append((bar, words[mark]))
    found, x = [], _MARGIN
    for drawn, said in entries:
        label = f'<text class="faint small" x="36" y="4">{said}</text>'
        found.append(f'<g transform="translate({x:.0f} {y:.0f})">{drawn}{label}</g>')
        x += 36 + _width(said, 10) + 18
    return "".join(found), x
