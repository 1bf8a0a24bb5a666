"""Changed networks are programs like any other: `jax.export` writes them, for every size of the batch."""

import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export
from keep_models import Blocks, NnxBlocks

import naivenas_jax as nas

ROWS = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


def by_hand():
    x = nas.input_vertex("x", 3)
    graph = nas.Graph(
        x, nas.layer("out", nn.Dense(2), nas.layer("norm", nn.BatchNorm(), nas.layer("dense0", nn.Dense(8), x)))
    )
    return graph, graph.init(jax.random.key(0), ROWS)


NETWORKS = {
    "by hand": by_hand,
    "linen": lambda: nas.from_linen(Blocks(), Blocks().init(jax.random.key(0), ROWS), ROWS),
    "nnx": lambda: nas.from_nnx(NnxBlocks(nnx.Rngs(0)), ROWS),
}
OTHER_PROCESS = """
import pathlib, sys
import jax, numpy as np
from jax import export
here = pathlib.Path(sys.argv[1])
for path in sorted(here.glob("*.program")):
    given = np.load(path.with_suffix(".npz"))
    outputs = jax.tree.leaves(export.deserialize(path.read_bytes()).call(given["rows"]))
    np.testing.assert_allclose(outputs[0], given["wanted"], rtol=1e-6, atol=1e-6)
print("all", "naivenas_jax" in sys.modules)
"""


def mutated(name: str) -> nas.Mutation:
    narrow = nas.delta_nout(*NETWORKS[name](), {"dense0": -3})
    return nas.insert_vertex(*narrow, "dense0", lambda v: nas.layer("new", nn.Dense(v.nout), v))


@pytest.mark.parametrize("name", NETWORKS)
def test_one_program_serves_every_batch(name):
    graph, variables = mutated(name)
    rows = jax.ShapeDtypeStruct(export.symbolic_shape("batch, 3"), jnp.float32)
    program = export.deserialize(export.export(jax.jit(graph.apply))(variables, rows).serialize())
    for batch in (1, 5):
        outputs = program.call(variables, ROWS[:batch]), graph.apply(variables, ROWS[:batch])
        jax.tree.map(lambda found, wanted: np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6), *outputs)


def test_a_process_without_this_library_runs_it(tmp_path):
    for name in NETWORKS:
        graph, variables = mutated(name)
        rows = jax.ShapeDtypeStruct(export.symbolic_shape("batch, 3"), jnp.float32)
        program = export.export(jax.jit(lambda x, g=graph, v=variables: g.apply(v, x)))(rows)
        (tmp_path / f"{name}.program").write_bytes(program.serialize())
        np.savez(tmp_path / f"{name}.npz", rows=ROWS, wanted=jax.tree.leaves(graph.apply(variables, ROWS))[0])
    done = subprocess.run([sys.executable, "-c", OTHER_PROCESS, str(tmp_path)], capture_output=True, text=True)
    assert done.stdout.strip() == "all False", done.stderr
