"""What a change costs beside the training: the table of docs/performance.md.

    python benchmarks/cost_of_a_change.py [--quick] [--against CHECKOUT] [--write FILE] [ROW ...]

CPU seconds, the median of several runs, each row in a process of its own. ``--against``: a checkout of another
revision, which is measured in turn with this one. ``--write``: puts the table into a file, such as docs/performance.md,
between its two marks. ``--quick``: a small network, once, to see that the script works.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

MARKS = "<!-- table: python benchmarks/cost_of_a_change.py -->", "<!-- end of the table -->"
RUNS = 7


def seconds(run: Callable[[], object], runs: int = RUNS) -> float:
    """CPU seconds of the process: the median, after a first call that is not counted."""
    run()
    return statistics.median(once(run) for _ in range(runs))


def once(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def filled(shapes: Any) -> Any:
    """Normal variables of these shapes."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    draws = np.random.default_rng(0)
    return jax.tree.map(lambda a: jnp.asarray(draws.standard_normal(a.shape, dtype=np.float32), a.dtype), shapes)


def import_time() -> float:
    import flax.linen
    import flax.nnx
    import jax
    import optax

    del flax, jax, optax
    start = time.process_time()
    import naivenas_jax

    del naivenas_jax
    return time.process_time() - start


def first_name() -> float:
    """What the first public name that is asked for takes, after the import."""
    import_time()
    import naivenas_jax as nas

    start = time.process_time()
    nas.Graph  # noqa: B018
    return time.process_time() - start


def shrink(name: str, what: str) -> float:
    """A tenth of the neurons of a layer go, in a graph with variables.

    Args:
      name: of the graph.
      what: "change"; "copy", a plain copy of the arrays that change; or "beyond", how many of these copies, made in
        turn with it, a change takes beyond 10 ms.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np
    from graphs import GRAPHS, SMALL

    import naivenas_jax as nas

    make, layer, _ = {**GRAPHS, **SMALL}[name]
    graph = make()
    image = (1, graph.nout("x")) if "x" in graph else (1, 64, 64, 3)
    variables = filled(jax.eval_shape(graph.init, jax.random.key(0), jax.ShapeDtypeStruct(image, jnp.float32)))
    request = {layer: -(graph.nout(layer) // 10) or -1}
    made = nas.delta_nout(graph, variables, request)
    pairs = zip(jax.tree.leaves(variables), jax.tree.leaves(made.variables), strict=True)
    changed = [np.asarray(new) for old, new in pairs if old is not new]

    def change() -> None:
        jax.block_until_ready(nas.delta_nout(graph, variables, request).variables)

    def copy() -> None:
        [array.copy() for array in changed]

    if what != "beyond":
        return seconds(copy if what == "copy" else change)
    in_turn = [(once(change), once(copy)) for _ in range(RUNS + 1)][1:]
    changing, copying = (statistics.median(times) for times in zip(*in_turn, strict=True))
    return max(0.0, changing - 0.010) / copying


def million(kind: str, width: int = 10_000, layers: int = 100) -> float:
    """A chain of dense layers, on shapes."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from graphs import chain

    import naivenas_jax as nas

    graph = chain(layers, width)
    shapes = jax.eval_shape(graph.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 64), jnp.float32))
    draws = np.random.default_rng(0)
    utility = {f"dense{i}": draws.uniform(size=width) for i in range(layers)}
    tenth = width // 10
    if kind == "shrink":
        return seconds(lambda: nas.delta_nout(graph, shapes, {"dense3": -tenth}, utility=utility))
    if kind == "mixed":
        request = {"dense3": -tenth, "dense5": nas.relaxed(tenth)}
        return seconds(lambda: nas.delta_nout(graph, shapes, request, utility=utility))
    signed = {name: scores - 0.3 for name, scores in utility.items()}
    return seconds(lambda: nas.resize(graph, shapes, utility=signed))


def halved(name: str) -> float:
    """All channels halved, import included."""
    import jax
    import jax.numpy as jnp
    from halving import halves
    from vision import NETWORKS, SMALL

    import naivenas_jax as nas

    model, image = {**NETWORKS, **SMALL}[name][0](), jnp.zeros((1, 224, 224, 3))
    variables = filled(jax.eval_shape(model.init, jax.random.key(0), image))

    def run() -> None:
        graph, own = nas.from_linen(model, variables, image)
        jax.block_until_ready(nas.delta_nout(graph, own, halves(graph)).variables)

    return seconds(run, 3)


def traced(name: str) -> float:
    """One trace of the model by JAX, which an import cannot do without."""
    import jax
    import jax.numpy as jnp
    from vision import NETWORKS, SMALL

    model, image = {**NETWORKS, **SMALL}[name][0](), jnp.zeros((1, 224, 224, 3))
    variables = filled(jax.eval_shape(model.init, jax.random.key(0), image))
    return seconds(lambda: jax.make_jaxpr(lambda own, x: model.apply(own, x))(variables, image), 3)


def programs(what: str) -> float:
    """How many programs a first call compiles."""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp

    import naivenas_jax as nas

    x = nas.input_vertex("x", 3)
    v = nas.invariant_vertex("act", nn.relu, nas.layer("c1", nn.Conv(8, (3, 3)), x))
    v = nas.layer("c2", nn.Conv(8, (3, 3)), nas.layer("norm", nn.BatchNorm(), v))
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.invariant_vertex("mean", lambda x: x.mean((1, 2)), v)))
    image = jnp.ones((1, 8, 8, 3))
    variables = jax.tree.map(jnp.abs, filled(jax.eval_shape(graph.init, jax.random.key(0), image)))  # and variances
    if what == "check":
        mutation = nas.delta_nout(graph, variables, {"c1": -2})
    jax.random.fold_in(jax.random.key(0), 1)  # keys, once in a process
    with nas.count_programs() as counted:
        if what == "check":
            mutation.check(image)
        elif what == "activation":
            nas.replace_layer(graph, variables, "act", lambda x: nas.invariant_vertex("act", nn.gelu, x))
        else:
            nas.insert_vertex(graph, variables, "c1", lambda x: nas.layer("new", nn.Conv(8, (3, 3)), x))
    return counted.count


def ties(count: int = 8000) -> float:
    """What is tied in a graph of many vertices, found from scratch."""
    import naivenas_jax as nas

    graph, _ = large(count)
    assert isinstance(graph, nas.Graph)

    def run() -> None:
        graph.__dict__.pop("ties", None)
        graph.ties  # noqa: B018

    return seconds(run, 3)


def large(count: int) -> tuple[Any, int]:
    """A chain of blocks of 500 neurons, each a layer, an activation, a norm, and a sum with what came before."""
    import flax.linen as nn

    import naivenas_jax as nas

    vertex = x = nas.input_vertex("x", 500)
    for number in range(count // 4):
        hidden = nas.invariant_vertex(f"act{number}", nn.relu, nas.layer(f"dense{number}", nn.Dense(500), vertex))
        vertex = nas.layer(f"norm{number}", nn.BatchNorm(), hidden)
        if number % 2:
            vertex = (vertex + hidden).named(f"sum{number}")
    graph = nas.Graph(x, nas.layer("out", nn.Dense(10), vertex))
    return graph, sum(v.nout for v in graph.vertices)


class Row(NamedTuple):
    """A row of the table.

    Attributes:
      what: in words.
      run: measures it.
      unit: "ms", "s", "copies" or "programs".
      goal: in this unit.
    """

    what: str
    run: Callable[[], float]
    unit: str
    goal: str


ROWS = {
    "import": Row("`import naivenas_jax` on top of jax, flax and optax", import_time, "s", "0.2"),
    "first-name": Row("the first public name of it that is asked for, once in a process", first_name, "s", ""),
    "resnet": Row(
        "`delta_nout`, ResNet-50 graph with its variables", lambda: shrink("ResNet-50", "change"), "ms", "10"
    ),
    "resnet-copy": Row("a plain copy of the arrays that change there", lambda: shrink("ResNet-50", "copy"), "ms", ""),
    "resnet-beyond": Row(
        "what the change takes beyond 10 ms, in such copies made in turn with it",
        lambda: shrink("ResNet-50", "beyond"),
        "copies",
        "3",
    ),
    "densenet": Row(
        "`delta_nout`, DenseNet-121 graph with its variables", lambda: shrink("DenseNet-121", "change"), "ms", "25"
    ),
    "million-shrink": Row("10^6 neurons (100 x 10,000, shapes only): shrink", lambda: million("shrink"), "ms", "50"),
    "million-prune": Row("the same, prune", lambda: million("prune"), "ms", "50"),
    "million-mixed": Row("the same, mixed", lambda: million("mixed"), "ms", "50"),
    "half-resnet": Row("all channels halved, import included: ResNet-50", lambda: halved("ResNet-50"), "s", "0.25"),
    "trace-resnet": Row("one `jax.make_jaxpr(model.apply)` of it", lambda: traced("ResNet-50"), "s", ""),
    "half-densenet": Row("all channels halved: DenseNet-121", lambda: halved("DenseNet-121"), "s", "0.4"),
    "trace-densenet": Row("one `jax.make_jaxpr(model.apply)` of it", lambda: traced("DenseNet-121"), "s", ""),
    "half-mobilenet": Row("all channels halved: MobileNetV2", lambda: halved("MobileNetV2"), "s", "0.15"),
    "trace-mobilenet": Row("one `jax.make_jaxpr(model.apply)` of it", lambda: traced("MobileNetV2"), "s", ""),
    "half-vit": Row("all channels halved: ViT-B/16", lambda: halved("ViT-B/16"), "s", "0.4"),
    "trace-vit": Row("one `jax.make_jaxpr(model.apply)` of it", lambda: traced("ViT-B/16"), "s", ""),
    "activation": Row("`replace_layer` to another activation", lambda: programs("activation"), "programs", "0"),
    "convolution": Row("`insert_vertex` of a 3 x 3 convolution", lambda: programs("convolution"), "programs", "0"),
    "check": Row("`mutation.check`, first call", lambda: programs("check"), "programs", "2"),
    "ties": Row("ties of 8,000 vertices and 10^6 neurons and more", ties, "s", "0.2"),
}
QUICK = {
    "small": Row("`delta_nout`, small network", lambda: shrink("small MLP", "change"), "ms", ""),
    "small-prune": Row("prune, 3 layers of 10", lambda: million("prune", 10, 3), "ms", ""),
    "small-half": Row("all channels halved", lambda: halved("small ResNet"), "s", ""),
    "activation": ROWS["activation"],
}


def measured(name: str, checkout: Path) -> float:
    """One row in a process of its own, with the package of a checkout."""
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    command = [sys.executable, __file__, "--one", name]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=checkout)
    return float(json.loads(run.stdout.splitlines()[-1]))


def shown(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    if unit == "copies":
        return f"{value:.1f} copies"
    return f"{value:.0f} {unit}" if unit == "programs" else f"{value * (1000 if unit == 'ms' else 1):.3g} {unit}"


def table(names: list[str], against: Path | None, pairs: int) -> list[str]:
    """Lines of the table."""
    rows = {**QUICK, **ROWS}
    lines = ["| what | before | now | to reach |", "|---|---:|---:|---:|"]
    for name in names:
        row = rows[name]
        times = [(measured(name, against) if against else None, measured(name, ROOT)) for _ in range(pairs)]
        before, now = ([pair[side] for pair in times if pair[side] is not None] for side in (0, 1))
        cells = [shown(statistics.median(found) if found else None, row.unit) for found in (before, now)]
        goal = f"{row.goal} {row.unit}" if row.goal[:1].isdigit() else row.goal
        lines.append(f"| {row.what} | {' | '.join(cells)} | {goal} |")
        print(lines[-1], flush=True)
    return lines


def write(path: Path, lines: list[str], against: Path | None) -> None:
    from machine import machine, revision

    def revision_of(checkout: Path) -> str:
        command = ["git", "rev-parse", "--short", "HEAD"]
        return subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True).stdout.strip()

    before = f"; before: {revision_of(against)}" if against else ""
    said = (
        f"{datetime.date.today().isoformat()}, {machine()}; Python {platform.python_version()}, naivenas_jax at "
        f"{revision()}{before}. CPU time, the median of up to {RUNS} runs in a process, "
        "and of several processes in turn with the other revision."
    )
    text, (first, last) = path.read_text(), MARKS
    ahead, behind = text.split(first)[0], text.split(last)[1]
    path.write_text("\n".join([f"{ahead}{first}", said, "", *lines, f"{last}{behind}"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--against", type=Path)
    parser.add_argument("--pairs", type=int, default=3, help="processes for each row and revision")
    parser.add_argument("--write", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps({**QUICK, **ROWS}[asked.one].run()))
        return
    if asked.quick:
        for name in QUICK:
            print(f"| {QUICK[name].what} | {shown(QUICK[name].run(), QUICK[name].unit)} |")
        return
    lines = table(asked.rows or list(ROWS), asked.against, asked.pairs)
    if asked.write:
        write(asked.write, lines, asked.against)


if __name__ == "__main__":
    main()
