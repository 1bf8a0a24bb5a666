"""Every Flax class of the package transformers: ``python tests/zoo/hugging_face.py [part of a name]``.

Each is made in a tiny size with random parameters, imported, shrunk once at a handle chosen by its name, evaluated and
checked. Writes docs/benchmarks/transformers.md.
"""

from __future__ import annotations

import os

os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")  # what is compiled runs once

import importlib
import inspect
import pkgutil
import platform
import sys
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from exercise import inner, primitives, short
from revision import revision

import naivenas_jax as nas
from naivenas_jax.jaxpr.primitive_tables import FROZEN
from naivenas_jax.trace.program.analysis import TIES

#: Not a model of its own: a choice among the others, a base class, or one that is put together of two others.
NO_MODEL = ("Auto", "PreTrainedModel", "EncoderDecoder", "DualEncoder", "VisionTextDual")
#: Names of sizes in configurations, and what they are here.
SIZES = {
    **dict.fromkeys(["hidden_size", "d_model", "dim", "n_embd", "word_embed_proj_dim", "embed_dim"], 32),
    **dict.fromkeys(["intermediate_size", "d_ff", "hidden_dim", "encoder_ffn_dim", "decoder_ffn_dim", "ffn_dim"], 48),
    **dict.fromkeys(["num_hidden_layers", "num_layers", "n_layers", "n_layer", "encoder_layers", "decoder_layers"], 2),
    **dict.fromkeys(["num_attention_heads", "num_heads", "n_heads", "n_head", "encoder_attention_heads"], 4),
    **dict.fromkeys(["decoder_attention_heads", "attention_heads"], 4),
    **{"num_decoder_layers": 2, "num_key_value_heads": 2, "head_dim": 8, "d_kv": 8, "vocab_size": 80},
    **{"max_position_embeddings": 64, "n_positions": 64, "image_size": 32, "patch_size": 8, "projection_dim": 16},
    **{"embedding_size": 16, "num_mel_bins": 8, "max_source_positions": 16, "max_target_positions": 16},
    **{"conv_dim": [16, 16], "conv_kernel": [4, 4], "conv_stride": [4, 4], "num_feat_extract_layers": 2},
    **{"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "depths": [1, 1, 1, 1]},
    **{"hidden_sizes": [8, 16, 32, 32], "groups_width": 4, "d_embed": 32, "num_codevectors_per_group": 8},
    **{"codevector_dim": 16, "proj_codevector_dim": 16, "block_size": 4, "num_random_blocks": 1, "rotary_dim": 4},
    **{"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2, "sep_token_id": 2},
    **{"suppress_tokens": None, "begin_suppress_tokens": None, "forced_eos_token_id": None, "scale_embedding": False},
    **{"attention_types": [[["global", "local"], 1]], "window_size": 4, "attention_type": "original_full"},
    **{"relative_attention_num_buckets": 8, "local_radius": 3, "global_block_size": 2, "apply_spec_augment": False},
    **{"do_stable_layer_norm": True, "feat_extract_norm": "layer"},
}


@dataclass
class Result:
    """What came out for one class: how far it got, and what stopped it."""

    name: str
    stage: str = "made"
    note: str = ""
    handles: int = 0
    seconds: float = 0.0


def classes() -> Iterator[type]:
    """The Flax classes that are models, by module."""
    import transformers.models as models

    for found in pkgutil.iter_modules(models.__path__):
        try:
            module = importlib.import_module(f"transformers.models.{found.name}.modeling_flax_{found.name}")
        except ModuleNotFoundError:
            continue
        for name, cls in inspect.getmembers(module, inspect.isclass):
            own = cls.__module__ == module.__name__ and name.startswith("Flax") and hasattr(cls, "from_pretrained")
            if own and not any(part in name for part in NO_MODEL):
                yield cls


def tiny(config_class: type) -> Any:
    """A configuration with small sizes; one that is made of several has small parts."""
    default = config_class()
    changed = {name: size for name, size in SIZES.items() if hasattr(default, name)}
    for name, part in getattr(config_class, "sub_configs", {}).items():
        if inspect.isclass(part):
            changed[name] = tiny(part).to_dict()
    return config_class(**changed)


def made(cls: type) -> tuple[Any, Any, Any]:
    """A model, its random variables, and inputs by name."""
    model = cls(tiny(cls.config_class), _do_init=False)
    shapes = jax.eval_shape(lambda key: model.init_weights(key, model.input_shape), jax.random.key(0))
    rng = np.random.default_rng(0)

    def random(path: Any, leaf: Any) -> jax.Array:
        x = 0.2 * rng.standard_normal(leaf.shape)
        return jnp.asarray(np.abs(x) + 0.1 if "var" in jax.tree_util.keystr(path[-1:]) else x, leaf.dtype)

    params = jax.tree_util.tree_map_with_path(random, dict(shapes))
    variables = params if "params" in params else {"params": params}
    return model, variables, _inputs(model, cls.__name__)


def _inputs(model: Any, name: str) -> dict[str, Any]:
    """What the class is called with, by the names of its arguments."""
    arguments = inspect.signature(type(model).__call__).parameters
    length = 16
    tokens = jax.random.randint(jax.random.key(4), (2, length), 3, 60).at[:, -1].set(2)
    pixels = jax.random.normal(jax.random.key(3), (2, 3, 32, 32))
    if "input_features" in arguments:
        given = {"input_features": jax.random.normal(jax.random.key(5), (2, 8, 32))}
    elif "input_values" in arguments:
        given = {"input_values": jax.random.normal(jax.random.key(5), (2, 256))}
    else:
        given = {key: x for key, x in (("input_ids", tokens), ("pixel_values", pixels)) if key in arguments}
    if "decoder_input_ids" in arguments:
        given["decoder_input_ids"] = tokens
    if "MultipleChoice" in name:
        given["input_ids"] = tokens.reshape(2, 2, length // 2)
    return given


def measure(cls: type) -> Result:
    """Make, import, shrink, evaluate and check one class."""
    result = Result(cls.__name__)
    try:
        model, variables, inputs = made(cls)
        modes = inspect.signature(type(model).__call__).parameters
        evaluation = {"train": False} if "train" in modes else {"deterministic": True}
        flat = "params" not in jax.eval_shape(lambda k: model.init_weights(k, model.input_shape), jax.random.key(0))

        def function(values: Any, *xs: Any) -> Any:
            given = {**dict(zip(inputs, xs, strict=True)), **evaluation}
            outputs = model(**given, params=values["params"] if flat else values)
            return [x for x in jax.tree.leaves(outputs.to_tuple()) if jnp.issubdtype(x.dtype, jnp.inexact)]

        used = set(primitives(jax.make_jaxpr(function)(variables, *inputs.values()).jaxpr))
    except Exception as error:  # not made: nothing of ours has run yet
        return Result(cls.__name__, "not made", short("", error)[2:])
    try:
        start = time.process_time()
        graph, variables = nas.from_function(function, variables, *inputs.values())
        result.seconds, result.stage, result.handles = time.process_time() - start, "imported", len(graph.handles())
        if unknown := used - set(TIES) - set(FROZEN):
            result.note = f"the table does not know {', '.join(sorted(unknown))}"
        _shrink(result, function, graph, variables, list(inputs.values()))
    except Exception as error:
        result.note = short("", error)[2:]
    return result


def _shrink(result: Result, function: Any, graph: Any, variables: Any, arrays: list[Any]) -> None:
    # Not under jit: the single operations are compiled once for many classes.
    after_import = jax.tree.leaves(graph.apply(variables, *arrays))
    assert _far(function(variables, *arrays), after_import) < 1e-4, "the graph differs from the model"
    handles = [handle for handle in inner(graph) if not handle.coupled] or inner(graph)
    assert handles, "nothing can be resized"
    handle = handles[zlib.crc32(result.name.encode()) % len(handles)]
    mutation = nas.delta_nout(graph, variables, {handle.name: nas.relaxed(-max(1, handle.size // 4))})
    outputs = jax.tree.leaves(mutation.graph.apply(mutation.variables, *arrays))
    assert all(bool(jnp.isfinite(x).all()) for x in outputs), "the outputs are not finite"
    check = mutation.check(*arrays)
    result.stage = "compared" if check.compared else "shrunk"
    result.note = result.note or ("" if check.compared else str(check.reason))


def _far(a: Any, b: Any) -> float:
    return max(float(jnp.abs(x - y).max() / jnp.maximum(jnp.abs(x).max(), 1e-6)) for x, y in zip(a, b, strict=True))


HEAD = """# The Flax classes of transformers

Every class of the package that is a Flax model, in a tiny size with random parameters: imported with
`nas.from_function`, shrunk by a quarter at one handle (chosen by its name among those that are not coupled), evaluated,
and compared by the dead-neuron oracle. Left out are the classes that only choose another one (`FlaxAuto...`) or put two
others together (`FlaxEncoderDecoderModel` and the like).

    python tests/zoo/hugging_face.py

{date}, on {machine}; naivenas_jax at {revision}; {versions}.
{seconds:.0f} CPU seconds for everything; other work ran on the machine.

**{good} of {count} classes ({share:.0%}) were imported, shrunk and evaluated**; {compared} of these were compared.

{made} classes run at all: this version of transformers was written for an older JAX. Arrays have no method `split` any
more, which some need. `jnp.clip` has other names for its arguments, which T5 and its kin need; there the old names are
put back while the models run.

| class | result | handles | import, CPU s | note |
|---|---|---|---|---|
"""


def text(results: list[Result], seconds: float, found: str) -> str:
    stages = Counter(result.stage for result in results)
    good = stages["compared"] + stages["shrunk"]
    head = HEAD.format(
        date=time.strftime("%Y-%m-%d"),
        machine=f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}",
        revision=found,
        versions=", ".join(f"{package} {metadata.version(package)}" for package in ("jax", "flax", "transformers")),
        seconds=seconds,
        good=good,
        count=len(results),
        share=good / max(len(results), 1),
        compared=stages["compared"],
        made=len(results) - stages["not made"],
    )
    return head + "".join(
        f"| {r.name} | {r.stage} | {r.handles} | {r.seconds:.2f} | {r.note.replace('|', '/')} |\n" for r in results
    )


def old_clip(clip: Callable[..., Any]) -> Callable[..., Any]:
    """`jnp.clip` as it was when the package was written."""

    def renamed(x: Any, a_min: Any = None, a_max: Any = None, **kwargs: Any) -> Any:
        return clip(x, **{"min": a_min, "max": a_max, **kwargs})

    return renamed


def main(wanted: str = "") -> None:
    warnings.simplefilter("ignore")  # the package was written for older versions of JAX and Flax
    jax.config.update("jax_default_matmul_precision", "highest")
    jnp.clip = old_clip(jnp.clip)
    results, start, found = [], time.process_time(), revision()
    for cls in classes():
        if wanted in cls.__name__:
            results.append(measure(cls))
            print(results[-1], flush=True)
    if not wanted:
        path = Path(__file__).parents[2] / "docs" / "benchmarks" / "transformers.md"
        path.write_text(text(results, time.process_time() - start, found))


if __name__ == "__main__":
    main(*sys.argv[1:])
