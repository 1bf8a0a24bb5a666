"""How many files a reader visits who follows the smallest change and the smallest import.

Counted are calls of functions of the package from another of its files, whatever of other packages lies between, and
the files that have a part in it. The targets are what a short way would take. Reached are for the change 206 calls
through 47 files (layers of a configuration that the process has seen keep what they tie, so that their rules are not
read again), and for the import 374 through 40 (it is traced twice, and the traces are compared; constants, indices of
words and functions of weights are followed through them). Since then a verb has a door, where tracebacks are cut,
which is a call more, and an import says how far it is, which is a file more.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import naivenas_jax as nas

PACKAGE = str(Path(nas.__file__).parent)


class Hops(NamedTuple):
    """Calls from one file to another, and files that take part."""

    calls: int
    files: int


def hops(run: Callable[[], object]) -> Hops:
    """Those of one call."""
    calls, files = 0, set()

    def profile(frame: FrameType, event: str, _: object) -> None:
        nonlocal calls
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(PACKAGE):
            caller = frame.f_back
            while caller is not None and not caller.f_code.co_filename.startswith(PACKAGE):
                caller = caller.f_back
            calls += caller is None or caller.f_code.co_filename != file
            files.add(file)

    before = sys.getprofile()
    gc.disable()  # what earlier tests left would go now, and hash its weak keys
    sys.setprofile(profile)
    try:
        run()
    finally:
        sys.setprofile(before)
        gc.enable()
    return Hops(calls, len(files))


def change() -> Callable[[], object]:
    """One neuron fewer in a graph of a layer, an activation and a layer, of which nothing is known yet."""
    x = nas.input_vertex("x", 3)
    hidden = nas.invariant_vertex("relu", nn.relu, nas.layer("a", nn.Dense(4), x))
    graph = nas.Graph(x, nas.layer("b", nn.Dense(2), hidden))
    variables = graph.init(jax.random.key(0), jnp.ones((1, 3)))
    graph.__dict__.pop("ties", None)  # equal graphs are one object, so that a test before this may have asked for them
    return lambda: nas.delta_nout(graph, variables, {"a": -1})


def an_import() -> Callable[[], object]:
    """The same in linen, and what is tied in it."""
    model, x = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(2)]), jnp.ones((1, 3))
    variables = model.init(jax.random.key(0), x)
    return lambda: nas.from_linen(model, variables, x)[0].ties


@pytest.mark.parametrize(
    ("make", "target", "most"),
    [
        pytest.param(change, Hops(150, 25), Hops(212, 50), id="delta_nout"),
        pytest.param(an_import, Hops(150, 20), Hops(400, 41), id="from_linen"),
    ],
)
def test_a_reader_need_not_go_far(make: Callable[[], Callable[[], object]], target: Hops, most: Hops):
    make()()  # what is done once per process is done
    found = hops(make())
    print(
        f"{found.calls} calls across files through {found.files} files; {target.calls} through {target.files} would do"
    )
    assert found.calls <= most.calls
    assert found.files <= most.files
