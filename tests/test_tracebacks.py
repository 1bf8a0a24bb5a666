"""Tracebacks of a user's mistakes: they end at the user's line, with one frame of the package."""

from __future__ import annotations

import inspect
import pickle
import random
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import naivenas_jax as nas
from naivenas_jax.door import door

sys.path.insert(0, str(Path(__file__).parent / "bad_input"))
from bad_values import BAD
from good_calls import calls
from test_bad_input_generated import cases

PACKAGE = str(Path(nas.__file__).parent)
SAMPLE = 60


def network() -> tuple[nas.Graph, dict]:
    x = nas.input_vertex("x", 3)
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), nas.layer("hidden", nn.Dense(8), x)))
    return graph, jax.eval_shape(graph.init, jax.random.key(0), jnp.ones((1, 3)))


def initialised() -> tuple[nas.Graph, dict]:
    graph, shapes = network()
    return graph, jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes)


def chained(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those that are printed before it."""
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def files(error: BaseException) -> list[str]:
    return [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]


def ours(error: BaseException) -> int:
    return sum(name.startswith(PACKAGE) for each in chained(error) for name in files(each))


def mistake(call: Callable[[], object]) -> nas.NaiveNASError:
    with pytest.raises(nas.NaiveNASError) as caught:
        call()
    return caught.value


class Unknown(nn.Module):
    pass


MISTAKES = {
    "a verb": lambda: nas.delta_nout(*network(), {"hiden": -1}),
    "a keyword": lambda: nas.resize(*network(), colour="red"),
    "a method": lambda: network()[0].vertex("nix"),
    "an inherited method": lambda: network()[0].inputs_of("nix"),
    "an item": lambda: network()[0]["nix"],
    "a constructor": lambda: nas.Graph((), ()),
    "an operator": lambda: nas.input_vertex("a", 2) + nas.input_vertex("b", 3),
    "a class method": lambda: nas.Plan.from_json("{"),
    "apply": lambda: network()[0].apply({"params": {}}, jnp.ones((1, 3))),
    "a step": lambda: nas.fallback.keep(*network(), {}, ValueError()),
    "a callback": lambda: nas.watch.check(jnp.ones((2, 7)))(nas.delta_nout(*initialised(), {"hidden": -1})),
    "a decorator": lambda: nas.register_layer(Unknown)(3),
    "an import": lambda: nas.from_linen(nn.Dense(2), {"params": {}}, jnp.ones((1, 3))),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_one_frame_of_ours_behind_the_line_of_the_user(name):
    error = mistake(MISTAKES[name])
    assert ours(error) == 1
    *_, line, last = files(error)
    assert (line, last.startswith(PACKAGE)) == (__file__, True)


def test_at_most_two_frames_over_the_catalogue_of_bad_input():
    deep = {}
    every = list(cases())
    steps = [case for case in every if case.function.startswith(("fallback.", "watch."))]
    for case in [*random.Random(3).sample(every, SAMPLE), *steps[:SAMPLE]]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                calls()[case.function](**{case.parameter: BAD[case.bad]()})
            except nas.NaiveNASError as error:
                if ours(error) > 2:
                    deep[case] = ours(error)
            except Exception:  # what others say of it is not asked here
                continue
    assert not deep


def test_the_frame_that_is_left_is_that_of_the_public_function():
    error = mistake(MISTAKES["a verb"])
    *_, (frame, line) = traceback.walk_tb(error.__traceback__)
    assert frame.f_code.co_name == "delta_nout"
    assert Path(frame.f_code.co_filename).read_text().splitlines()[line - 1].startswith("def delta_nout(")
    assert "^" not in "".join(traceback.format_tb(error.__traceback__)).splitlines()[-1]


def test_the_user_can_see_all():
    before = jax.config.jax_traceback_filtering
    jax.config.update("jax_traceback_filtering", "off")
    try:
        assert ours(mistake(MISTAKES["a verb"])) > 3
    finally:
        jax.config.update("jax_traceback_filtering", before)


def test_a_mistake_of_the_library_keeps_its_frames():
    def inner() -> None:
        raise nas.InternalError("broken")

    with pytest.raises(nas.InternalError) as caught:
        door(lambda: inner())()
    assert [frame.f_code.co_name for frame, _ in traceback.walk_tb(caught.value.__traceback__)][-1] == "inner"


def halves(x: jax.Array) -> jax.Array:
    return x.reshape(7, -1)


def test_lines_of_the_users_functions_stay_in_the_cause():
    variables, x = {"params": {"w": jnp.ones(3)}}, jnp.ones((1, 3))
    error = mistake(lambda: nas.from_function(lambda variables, x: halves(x), variables, x))
    names = [frame.f_code.co_name for each in chained(error) for frame, _ in traceback.walk_tb(each.__traceback__)]
    assert "halves" in names
    assert ours(error) == 1


def test_callbacks_raise_what_they_raise():
    def watch(change: object) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as caught:
        nas.delta_nout(*network(), {"hidden": -1}, on_change=watch)
    assert files(caught.value)[-1] == __file__


def test_what_is_made_by_the_package_has_a_door_and_what_users_have_made_has_none():
    def rule(module: nn.Module) -> nas.LayerRule:
        raise NotImplementedError

    assert nas.register_layer(Unknown)(rule) is rule
    assert nas.watch.log().__wrapped__.__qualname__ == "log.<locals>.logged"


@pytest.mark.parametrize("name", ["apply", "delta_nout", "magnitude", "Graph", "input_vertex"])
def test_doors_are_the_functions(name):
    public = getattr(nas, name)
    assert pickle.loads(pickle.dumps(public)) is public
    assert public.__doc__
    assert inspect.signature(public) == inspect.signature(inspect.unwrap(public)) or name == "delta_nout"
    assert inspect.getsourcefile(inspect.unwrap(public)).startswith(PACKAGE)
