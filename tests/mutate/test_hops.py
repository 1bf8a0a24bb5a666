"""How far a small call travels through the package: calls across files, and files. Printed; fails where it doubles.

A long way is no fault in itself, one idea per file makes it longer; that it grows unseen would be one.
"""

import os
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp

import naivenas_jax as nas

PACKAGE = os.path.dirname(nas.__file__)


def travelled(call):
    """The number of calls whose caller and callee are in different files of the package, and the files entered."""
    hops, files = 0, set()

    def count(frame, event, argument):
        nonlocal hops
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            here, back = frame.f_code.co_filename, frame.f_back.f_code.co_filename
            files.add(here)
            hops += here != back and back.startswith(PACKAGE)

    sys.setprofile(count)
    try:
        call()
    finally:
        sys.setprofile(None)
    return hops, len(files)


def test_the_smallest_change_of_width(capsys):
    x = nas.input_vertex("x", 3)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("a", nn.Dense(8), x)))
    variables = graph.init(jax.random.key(0), jnp.ones((1, 3)))
    hops, files = travelled(lambda: nas.delta_nout(graph, variables, {"a": -1}))
    with capsys.disabled():
        print(f"\ndelta_nout on three vertices: {hops} calls across {files} files")
    assert hops < 2 * 283
    assert files < 2 * 51


class Two(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2, name="out")(nn.relu(nn.Dense(8, name="a")(x)))


def test_the_smallest_import(capsys):
    x = jnp.ones((2, 3))
    variables = Two().init(jax.random.key(0), x)
    hops, files = travelled(lambda: nas.from_linen(Two(), variables, x))
    with capsys.disabled():
        print(f"\nimporting two layers: {hops} calls across {files} files")
    assert hops < 2 * 268
    assert files < 2 * 27
