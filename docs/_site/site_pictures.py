"""Draws the pictures of the pages: `python docs/_site/site_pictures.py` writes docs/pictures/*.svg.

A neuron is a small square. Neurons of one colour are tied; a pale one with a cross is dropped, a dashed one is new.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "pictures"
COLOURS = ("#37617d", "#b3541e", "#4f7a3a", "#7d4a86", "#8a6d1a", "#2a7f78", "#a03a4b", "#5b6470")
INK, FAINT = "#333333", "#9aa3ab"
SIDE, STEP = 16, 20  # of a neuron, and from one to the next

PICTURES: dict[str, Callable[[], str]] = {}


def picture(draw: Callable[[], str]) -> Callable[[], str]:
    PICTURES[draw.__name__] = draw
    return draw


def svg(width: int, height: int, *parts: str) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    arrow = '<marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    arrow += f'<path d="M0 0 L8 4 L0 8 z" fill="{INK}"/></marker>'
    ground = f'<rect width="{width}" height="{height}" fill="white"/>'
    lines = (f'{head} font-family="sans-serif" font-size="13">', f"<defs>{arrow}</defs>", ground, *parts, "</svg>")
    return "\n".join(lines) + "\n"


def text(x: float, y: float, words: str, anchor: str = "middle", colour: str = INK, more: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="{colour}" {more}>{words}</text>'


def bold(x: float, y: float, words: str, anchor: str = "middle") -> str:
    return text(x, y, words, anchor, more='font-weight="bold"')


def line(x1: float, y1: float, x2: float, y2: float, arrow: bool = False, colour: str = INK) -> str:
    end = ' marker-end="url(#arrow)"' if arrow else ""
    return f'<path d="M{x1:g} {y1:g} L{x2:g} {y2:g}" stroke="{colour}" stroke-width="1.3" fill="none"{end}/>'


def square(x: float, y: float, colour: str, state: str = "kept") -> str:
    """A neuron: kept, dropped or new."""
    if state == "dropped":
        box = f'<rect x="{x:g}" y="{y:g}" width="{SIDE}" height="{SIDE}" rx="3" fill="{colour}" fill-opacity="0.18"/>'
        return box + f'<path d="M{x + 4} {y + 4} l8 8 m0 -8 l-8 8" stroke="{colour}" stroke-width="1.6"/>'
    if state == "new":
        more = f'fill="white" stroke="{colour}" stroke-width="1.6" stroke-dasharray="3 2"'
        return f'<rect x="{x:g}" y="{y:g}" width="{SIDE}" height="{SIDE}" rx="3" {more}/>'
    return f'<rect x="{x:g}" y="{y:g}" width="{SIDE}" height="{SIDE}" rx="3" fill="{colour}"/>'


def column(x: float, y: float, colours: Sequence[str], dropped: Sequence[int] = (), new: Sequence[int] = ()) -> str:
    """Neurons below one another."""
    states = ["dropped" if i in dropped else "new" if i in new else "kept" for i in range(len(colours))]
    return "".join(square(x, y + STEP * i, c, s) for i, (c, s) in enumerate(zip(colours, states, strict=True)))


def grid(x: float, y: float, rows: Sequence[str], columns: Sequence[str]) -> str:
    """A kernel: an entry has the colour of the neuron that makes it, and a frame of the one that it reads."""
    cells = [
        f'<rect x="{x + STEP * j:g}" y="{y + STEP * i:g}" width="{SIDE}" height="{SIDE}" fill="{made}" '
        f'stroke="{read}" stroke-width="2.5"/>'
        for i, read in enumerate(rows)
        for j, made in enumerate(columns)
    ]
    return "".join(cells)


def box(x: float, y: float, width: float, height: float, words: str) -> str:
    frame = f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" fill="#f3f5f6" stroke="{FAINT}"/>'
    return frame + text(x + width / 2, y + height / 2 + 4.5, words)


def block(x: float, four: Sequence[str], hidden: Sequence[str], dropped: Sequence[int], thin: Sequence[int]) -> str:
    """A residual block: stem and block are added, hidden reads the sum."""
    parts = [bold(x + 8, 40, "stem"), bold(x + 98, 40, "block"), bold(x + 188, 40, "sum"), bold(x + 278, 40, "hidden")]
    parts += [column(x + 90 * i, 52, four, dropped) for i in range(3)] + [column(x + 270, 52, hidden, thin)]
    middle = 52 + STEP * len(four) / 2
    parts += [line(x + 22 + 90 * i, middle, x + 86 + 90 * i, middle, arrow=True) for i in range(3)]
    low = 62 + STEP * max(len(four), len(hidden))
    parts.append(f'<path d="M{x + 8} {low} v14 h180 v-10" stroke="{INK}" fill="none" marker-end="url(#arrow)"/>')
    parts.append(text(x + 98, low + 30, "added: equally wide"))
    return "".join(parts)


def halves(x: float, x_after: float) -> tuple[str, str]:
    """A residual block before and after."""
    four, hidden = COLOURS[:4], [COLOURS[7]] * 5
    return block(x, four, hidden, (1, 3), (2,)), block(x_after, (four[0], four[2]), hidden[:4], (), ())


@picture
def quick_start() -> str:
    left, right = halves(30, 430)
    return svg(740, 220, left, line(355, 100, 405, 100, arrow=True), right)


@picture
def quick_start_narrow() -> str:
    """The same for phones: the halves below one another."""
    above, below = halves(22, 22)
    return svg(340, 425, above, line(170, 205, 170, 238, arrow=True), f'<g transform="translate(0 225)">{below}</g>')


@picture
def ties() -> str:
    a, b = COLOURS[:4], COLOURS[4:7]
    parts = [bold(38, 30, "stem"), column(30, 42, a), bold(138, 30, "block"), column(130, 42, a)]
    parts += [bold(38, 160, "side"), column(30, 172, b)]
    parts += [bold(238, 30, "stem + block"), column(230, 42, a)]
    parts += [line(52, 62, 126, 62, arrow=True), line(152, 82, 226, 82, arrow=True)]
    parts += [f'<path d="M52 102 C110 150 180 140 226 108" stroke="{INK}" fill="none" marker-end="url(#arrow)"/>']
    parts += [bold(378, 30, "both, a concatenation"), column(370, 42, [*a, *b])]
    parts += [line(252, 82, 366, 82, arrow=True), line(52, 200, 366, 152, arrow=True)]
    parts += [bold(540, 30, "hidden, a dense layer"), column(530, 42, [COLOURS[7]] * 4)]
    parts += [
        line(392, 102, 526, 82, arrow=True),
        text(462, 135, "weights:", colour=INK),
        text(462, 152, "ties end here"),
    ]
    parts += [text(340, 245, "one colour: one class of tied neurons, which goes or stays as one")]
    return svg(680, 260, *parts)


@picture
def alignment() -> str:
    worth = {0: (5.0, 3.0), 1: (1.0, 1.5), 2: (4.0, 2.0), 3: (0.5, 1.0)}
    parts = [bold(20, 24, "utility of a class: the sum of its neurons&#8217; scores", anchor="start")]
    for row, (i, (stem, block_)) in enumerate(worth.items()):
        y = 44 + 34 * row
        kept = i in (0, 2)
        parts.append(square(20, y, COLOURS[i], "kept" if kept else "dropped"))
        faint = "" if kept else ' fill-opacity="0.3"'
        parts.append(f'<rect x="50" y="{y}" width="{30 * stem:g}" height="16" fill="{COLOURS[i]}"{faint}/>')
        parts.append(
            f'<rect x="{52 + 30 * stem:g}" y="{y}" width="{30 * block_:g}" height="16" fill="{COLOURS[i]}"{faint}/>'
        )
        parts.append(text(62 + 30 * (stem + block_), y + 13, f"{stem + block_:g}", anchor="start"))
    parts.append(text(50, 196, "from stem, and from block", anchor="start", colour="#5b6470"))
    rules = (
        "stem = block = stem + block",
        "both = (stem + block) + side",
        "stem = 2, as requested",
        "budgets, multiples, ...",
    )
    parts += [bold(430, 24, "what has to hold", anchor="start")]
    parts += [text(430, 50 + 24 * i, rule, anchor="start") for i, rule in enumerate(rules)]
    parts += [
        text(430, 160, "what is maximised: the utility", anchor="start"),
        text(430, 180, "of the classes that stay", "start"),
    ]
    return svg(680, 210, *parts)


@picture
def plan() -> str:
    old, new = COLOURS[:4], (COLOURS[0], COLOURS[2], COLOURS[7])
    reads, few = COLOURS[4:7], COLOURS[4:7]
    parts = [bold(60, 24, "axis of stem"), column(30, 40, old, (1, 3)), column(110, 40, new, new=(2,))]
    parts += [line(48, 48, 106, 48, arrow=True), line(48, 88, 106, 68, arrow=True)]
    parts += [text(78, 140, "source"), text(78, 158, "[0, 2, -1]", more='font-family="monospace"')]
    parts += [bold(270, 24, "kernel before"), grid(230, 40, reads, old), text(270, 125, "(3, 4)")]
    parts += [line(325, 68, 365, 68, arrow=True)]
    parts += [bold(420, 24, "kernel after"), grid(385, 40, few, new), text(415, 125, "(3, 3)")]
    parts += [bold(590, 24, "Adam&#8217;s moments"), grid(555, 40, few, (COLOURS[0], COLOURS[2], "#ffffff"))]
    parts += [text(590, 125, "carried; new: 0")]
    parts += [text(400, 158, "colour: the neuron that is made; frame: the neuron that is read")]
    return svg(700, 175, *parts)


@picture
def mask() -> str:
    old = COLOURS[:4]
    parts = [bold(160, 24, "the old network, masked"), bold(520, 24, "the new network")]
    parts += [column(60, 40, old), text(68, 140, "stem")]
    parts += [text(112, 85, "&#215;", more='font-size="20"')]
    parts += [
        text(144, 53 + STEP * i, value, more='font-family="monospace"') for i, value in enumerate(("1", "0", "1", "0"))
    ]
    parts += [text(144, 140, "mask"), line(165, 78, 200, 78, arrow=True), box(206, 60, 90, 36, "what reads it")]
    parts += [text(385, 88, "=", more='font-size="28"')]
    parts += [column(460, 60, (old[0], old[2])), text(468, 140, "stem"), line(485, 78, 520, 78, arrow=True)]
    parts += [box(526, 60, 90, 36, "what reads it")]
    return svg(680, 160, *parts)


@picture
def training() -> str:
    reads, old, new = COLOURS[4:7], COLOURS[:4], (COLOURS[0], COLOURS[2])
    names = ("params", "moments", "average")
    parts = [bold(60, 24, "the state before"), bold(565, 24, "the state after")]
    for i, name in enumerate(names):
        y = 40 + 84 * i
        parts += [text(20, y + 32, name, anchor="start"), grid(110, y, reads, old)]
        parts += [line(205, y + 28, 285, 150, arrow=True), line(405, 150, 485, y + 28, arrow=True)]
        parts += [grid(500, y, reads, new), text(560, y + 32, name, anchor="start")]
    parts += [box(290, 120, 112, 60, "plan"), text(346, 205, "stem: keeps 0, 2", colour="#5b6470")]
    parts += [text(20, 310, "step = 100", anchor="start"), text(500, 310, "step = 100", anchor="start")]
    return svg(680, 325, *parts)


@picture
def refusal() -> str:
    parts = [box(20, 70, 110, 44, "a request"), line(132, 92, 186, 92, arrow=True)]
    parts += [box(190, 70, 150, 44, "are there sizes?")]
    parts += [line(342, 86, 410, 44, arrow=True), line(342, 98, 410, 140, arrow=True)]
    parts += [text(362, 56, "yes"), text(362, 134, "no"), box(415, 20, 245, 44, "a mutation: new network, plan")]
    parts += [box(415, 120, 245, 60, "")]
    parts += [text(537, 145, "an error: what contradicts what,"), text(537, 165, "and the nearest sizes that do")]
    return svg(680, 200, *parts)


@picture
def import_() -> str:
    words = ("your model", "a trace: its jaxpr", "a graph with handles", "a mutation", "your class again")
    parts = [box(10 + 138 * i, 40, 128, 50, word) for i, word in enumerate(words)]
    parts += [line(138 + 138 * i, 65, 146 + 138 * i, 65, arrow=True) for i in range(4)]
    below = (
        "linen, nnx, function",
        "from_linen, ...",
        "names of your modules",
        "delta_nout, resize, ...",
        "rebuild, carry",
    )
    parts += [text(74 + 138 * i, 112, word, colour="#5b6470") for i, word in enumerate(below)]
    return svg(700, 130, *parts)


@picture
def budgets() -> str:
    layers = (("stem", 240, 150), ("inner", 420, 170), ("hidden", 300, 180))
    parts = [bold(20, 24, "parameters of each layer, before and after", anchor="start")]
    for i, (name, before, after) in enumerate(layers):
        y, colour = 44 + 34 * i, COLOURS[i]
        parts += [text(20, y + 14, name, anchor="start"), bar(90, y, before, colour, 0.25), bar(90, y, after, colour)]
    parts += [text(20, 168, "all", anchor="start"), bar(90, 154, 570, COLOURS[7], 0.25), bar(90, 154, 284, COLOURS[7])]
    parts += [
        line(375, 40, 375, 178, colour="#a03a4b"),
        text(380, 195, "max_params=0.5", anchor="start", colour="#a03a4b"),
    ]
    return svg(690, 210, *parts)


def bar(x: float, y: float, width: float, colour: str, opacity: float = 1) -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="18" fill="{colour}" fill-opacity="{opacity:g}"/>'


@picture
def compress() -> str:
    four = COLOURS[:4]
    titles = ("the original", "pruned: a part is missing", "re-fitted: the rest makes up for it")
    parts = []
    for i, title in enumerate(titles):
        x = 20 + 225 * i
        parts += [bold(x, 24, title, anchor="start"), column(x + 10, 42, four, (1, 3) if i else ())]
        for j in range(4):
            if not (i and j in (1, 3)):
                thick = 4 if i == 2 else 1.5
                start, end = f"{x + 28} {50 + STEP * j}", f"{x + 104} 80"
                parts.append(f'<path d="M{start} L{end}" stroke="{four[j]}" stroke-width="{thick}" fill="none"/>')
        parts += [
            square(x + 106, 72, COLOURS[7]),
            text(x + 130, 85, ("y", "y&#8242; &#8800; y", "y&#8243; &#8776; y")[i], "start"),
        ]
    return svg(690, 140, *parts)


@picture
def transfer() -> str:
    grey, made = COLOURS[7], COLOURS[:3]
    parts = [bold(20, 24, "new words", anchor="start"), grid(30, 42, [grey] * 3, made)]
    parts += [square(30 + STEP * j, 42 + STEP * 3 + STEP * i, grey, "new") for i in range(2) for j in range(3)]
    parts += [text(100, 62, "stay at their", anchor="start"), text(100, 80, "numbers", anchor="start")]
    parts += [text(100, 125, "come last", anchor="start"), bold(235, 24, "three classes of ten", anchor="start")]
    parts += [column(245, 42, [COLOURS[i % 7] for i in range(6)], (1, 2, 4)), line(270, 95, 330, 80, arrow=True)]
    parts += [column(340, 50, (COLOURS[0], COLOURS[3], COLOURS[5])), bold(450, 24, "grey images", anchor="start")]
    parts += [column(460, 42, ("#a03a4b", "#4f7a3a", "#37617d")), line(485, 70, 560, 70, arrow=True)]
    parts += [
        column(570, 62, ("#777777",)),
        text(522, 62, "+"),
        text(450, 130, "weights of three channels are added", "start"),
    ]
    return svg(700, 190, *parts)


@picture
def population() -> str:
    parts = [
        bold(20, 24, "members of different widths", anchor="start"),
        bold(330, 24, "one shape, and masks", anchor="start"),
    ]
    for i, width in enumerate((4, 7, 9, 6)):
        y, colour = 40 + 30 * i, COLOURS[i]
        parts += [square(20 + STEP * j, y, colour) for j in range(width)]
        parts += [square(330 + STEP * j, y, colour, "kept" if j < width else "dropped") for j in range(9)]
    parts += [line(225, 95, 310, 95, arrow=True), line(525, 95, 565, 95, arrow=True)]
    parts += [box(570, 72, 110, 46, ""), text(625, 92, "one compiled"), text(625, 108, "program")]
    return svg(700, 175, *parts)


@picture
def save() -> str:
    files = (
        ("structure.json", "vertices, layers by name, sizes: no code"),
        ("variables.safetensors", "arrays"),
        ("tree.state.safetensors", "what else you give: the state of an optimizer"),
        ("manifest.json", "a hash of each file"),
    )
    parts = [box(20, 62, 120, 50, "nas.save"), line(142, 87, 186, 87, arrow=True)]
    parts.append(f'<rect x="190" y="14" width="330" height="156" rx="6" fill="#f3f5f6" stroke="{FAINT}"/>')
    for i, (name, what) in enumerate(files):
        parts += [text(204, 36 + 36 * i, name, "start", more='font-family="monospace"')]
        parts += [text(204, 52 + 36 * i, what, "start", "#5b6470", 'font-size="12"')]
    parts += [line(522, 87, 566, 87, arrow=True), box(570, 62, 120, 50, "nas.load")]
    return svg(710, 180, *parts)


@picture
def search() -> str:
    boxes = ((20, "a population"), (200, "choose parents"), (380, "change"), (560, "train, evaluate"))
    parts = [box(x, 30, 130, 46, word) for x, word in boxes]
    parts += [line(x + 132, 53, x + 176, 53, arrow=True) for x, _ in boxes[:3]]
    parts.append(f'<path d="M625 80 v40 h-540 v-36" stroke="{INK}" fill="none" marker-end="url(#arrow)"/>')
    parts += [text(445, 96, "random_mutation, crossover", colour="#5b6470"), text(265, 96, "yours", colour="#5b6470")]
    parts += [text(355, 140, "History: which came from which; states of optimizers are carried")]
    return svg(710, 155, *parts)


def thirds(x: float, split: Sequence[str], new: Sequence[int] = ()) -> str:
    """A vertex that comes three times to a concatenation, to which another one is added."""
    many, fresh = [*split] * 3, [i + len(split) * third for third in range(3) for i in new]
    parts = [bold(x + 8, 30, "split"), column(x, 42, split, new=new), bold(x + 98, 30, "joined")]
    parts += [line(x + 20, 62, x + 86, 62 + STEP * len(split) * third, arrow=True) for third in range(3)]
    parts += [column(x + 90, 42, many, new=fresh), bold(x + 188, 30, "start"), column(x + 180, 42, many, new=fresh)]
    parts += [text(x + 143, 106, "+", more='font-size="20"'), text(x + 233, 106, "=", more='font-size="20"')]
    return "".join([*parts, bold(x + 278, 30, "out"), column(x + 270, 42, many, new=fresh)])


@picture
def tutorial() -> str:
    two, third = COLOURS[:2], COLOURS[2]
    parts = [thirds(20, two), line(325, 100, 375, 100, arrow=True), thirds(400, (*two, third), (2,))]
    return svg(
        720, 260, *parts, text(360, 250, "one neuron more in split is one more in each third of joined, start and out")
    )


@picture
def advanced() -> str:
    reads, made = [COLOURS[7]] * 3, COLOURS[:4]
    parts = []
    for x, shown, title in ((20, made, "kernel"), (400, (made[0], *made[2:]), "one dropped")):
        n = len(shown)
        parts += [bold(x, 24, title, "start"), grid(x, 40, reads, [*shown, *shown]), text(x + 10 * n, 122, "value")]
        parts += [text(x + 30 * n, 122, "gate"), line(x + 40 * n + 6, 68, x + 40 * n + 40, 68, arrow=True)]
        parts += [bold(x + 40 * n + 58, 24, "out"), column(x + 40 * n + 50, 40, shown)]
    return svg(680, 160, *parts, text(340, 150, "one colour: the two columns of one neuron"))


@picture
def strategies() -> str:
    steps = ("a request", "fallback 1", "fallback 2", "the first error")
    parts = [box(10 + 172 * i, 30, 112, 40, words) for i, words in enumerate(steps)]
    for i in range(3):
        parts += [line(124 + 172 * i, 50, 178 + 172 * i, 50, arrow=True), text(150 + 172 * i, 42, "none")]
        parts += [line(66 + 172 * i, 72, 66 + 172 * i, 106, arrow=True), text(72 + 172 * i, 94, "sizes found", "start")]
    return svg(650, 160, *parts, box(10, 110, 456, 36, "a mutation; its notes say which step has made it"))


@picture
def utility() -> str:
    starts = (("by default", "random", "0"), ("zeros", "0", "0"), ("split", "copied", "half, half"))
    parts = []
    for i, (title, into, out) in enumerate(starts):
        x, copy = 20 + 230 * i, title == "split"
        old, fresh = COLOURS[0], COLOURS[0] if copy else COLOURS[2]
        parts += [bold(x, 24, title if i == 0 else f"new=&quot;{title}&quot;", "start")]
        parts += [column(x, 60, [COLOURS[7]] * 2), square(x + 80, 50, old), square(x + 80, 95, fresh, "new")]
        parts += [column(x + 160, 70, [COLOURS[7]])]
        parts += [line(x + 20, 68 + STEP * j, x + 76, 58) for j in range(2)]
        parts += [line(x + 20, 68 + STEP * j, x + 76, 103, colour=FAINT if into == "0" else fresh) for j in range(2)]
        parts += [line(x + 100, 58, x + 156, 76), line(x + 100, 103, x + 156, 80, colour=fresh if copy else FAINT)]
        parts += [text(x + 36, 130, f"in: {into}"), text(x + 136, 130, f"out: {out}")]
    return svg(690, 150, *parts)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, draw in PICTURES.items():
        (FOLDER / f"{name.rstrip('_')}.svg").write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()
