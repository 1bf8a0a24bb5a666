"""A change costs what it changes: counted are copies of arrays, transfers to the device, vertices and layers.

Nothing is timed.
"""

from __future__ import annotations

import gc
import pickle
import tracemalloc
import weakref
from collections.abc import Callable
from unittest import mock

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import naivenas_jax as nas
from naivenas_jax.layers.ops.layer_op import LayerOp
from naivenas_jax.mutate.result.mutation import then
from naivenas_jax.transfer import take as taking, undo as undoing

WIDTH = 256


def chain(width: int = WIDTH, layers: int = 4) -> nas.Graph:
    """Layers d0, d1, ... with activations a0, a1, ... in between."""
    x = vertex = nas.input_vertex("x", 3)
    for i in range(layers):
        vertex = nas.invariant_vertex(f"a{i}", nn.relu, nas.layer(f"d{i}", nn.Dense(width), vertex))
    return nas.Graph(x, nas.layer("out", nn.Dense(2), vertex))


def variables_of(graph: nas.Graph) -> dict:
    shapes = jax.eval_shape(graph.init, jax.random.key(0), jnp.ones((1, 3)))
    draws = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(draws.normal(size=leaf.shape), leaf.dtype), shapes)


def calls(owner: object, name: str, run: Callable[[], object]) -> list[mock._Call]:
    """The calls of a function while something runs."""
    with mock.patch.object(owner, name, autospec=True, side_effect=getattr(owner, name)) as counted:
        run()
    return counted.call_args_list


def test_unchanged_arrays_and_vertices_are_the_same_objects():
    graph = chain()
    variables = variables_of(graph)
    after, new = nas.delta_nout(graph, variables, {"d1": -5})
    old, now = variables["params"], new["params"]
    assert {name for name in old if now[name]["kernel"] is old[name]["kernel"]} == {"d0", "d3", "out"}
    assert {name for name in old if now[name]["bias"] is old[name]["bias"]} == {"d0", "d2", "d3", "out"}
    assert {v.name for v in after if v is graph[v.name]} == {"x", "d0", "a0"}  # what lies behind reads another vertex
    assert {v.name for v in after if v.op is not graph[v.name].op} <= {"d1", "a1", "d2"}


@pytest.mark.parametrize("change", [-5, 5])
def test_arrays_go_to_the_device_together_and_are_not_copied_there(change: int):
    graph = chain()
    variables = variables_of(graph)
    nas.delta_nout(graph, variables, {"d1": change})
    put = jax.device_put
    pairs = []

    def counted(values: object, *args: object, **keywords: object) -> object:
        placed = put(values, *args, **keywords)
        pairs.append((values, placed))
        return placed

    with mock.patch.object(jax, "device_put", counted):
        nas.delta_nout(graph, variables, {"d1": change})
    assert len(pairs) == 1
    ((values, placed),) = pairs
    assert len(values) == 3  # two kernels and a bias
    if jax.devices()[0].platform == "cpu":
        assert [a.ctypes.data for a in values] == [b.unsafe_buffer_pointer() for b in placed]


def test_only_arrays_that_change_are_indexed():
    graph = chain()
    variables = variables_of(graph)
    assert len(calls(taking, "_take_host", lambda: nas.delta_nout(graph, variables, {"d1": -5}))) == 3


def test_no_memory_is_taken_beside_what_is_returned():
    """The new arrays, and less than a tenth of the network besides: what was removed is left where it is."""
    graph = chain(width=1024)
    variables = variables_of(graph)
    nas.delta_nout(graph, variables, {"d1": -100})
    tracemalloc.start()
    mutation = nas.delta_nout(graph, variables, {"d1": -100})
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    whole = sum(array.nbytes for array in jax.tree.leaves(variables))
    changed = 2 * 1024 * 924 * 4
    assert mutation.variables["params"]["d1"]["kernel"].shape == (1024, 924)
    assert changed < held < changed + whole / 10
    assert peak < held + 1024 * 1024 * 4 + whole / 10  # the sizes of the entries of one kernel, for its magnitude


def test_layers_that_do_not_change_are_not_asked_what_they_tie():
    graph = chain(width=251)  # a width that no other test has, whose ties are kept
    variables = variables_of(graph)
    graph.ties  # noqa: B018
    made = nas.delta_nout(graph, variables, {"d1": -5}).graph
    # the layer with fewer neurons and the one that reads them, each once
    made.ties  # noqa: B018
    again = calls(LayerOp, "declare", lambda: nas.delta_nout(graph, variables, {"d1": -7}).graph.ties)
    assert len(again) == 2


def test_axes_that_do_not_change_have_one_plan_for_each_size():
    graph = chain()
    plan = nas.delta_nout(graph, variables_of(graph), {"d1": -5}).plan
    same = [axis for name, axis in plan.axes.items() if name not in plan.changed]
    assert len({id(axis) for axis in same}) == len({axis.before for axis in same}) < len(same)


def test_donated_results_leave_what_they_share_memory_with_alone():
    """Memory that an array of jax has taken over from numpy is nobody else's, and may be donated or not."""
    graph = chain()
    variables = variables_of(graph)
    mutation = nas.delta_nout(graph, variables, {"d1": -5})
    undone = jax.tree.map(np.asarray, mutation.undo(mutation.variables)[1])
    before = np.asarray(mutation.variables["params"]["d1"]["kernel"]).copy()
    doubled = jax.jit(lambda kernel: kernel * 2, donate_argnums=0)(mutation.variables["params"]["d1"]["kernel"])
    np.testing.assert_array_equal(doubled, 2 * before)
    for a, b in zip(jax.tree.leaves(undone), jax.tree.leaves(variables), strict=True):
        np.testing.assert_array_equal(a, b)


def test_only_layers_that_change_or_read_another_width_are_asked_for_their_own():
    graph = chain()
    variables = variables_of(graph)
    asked = [
        call.args[1]
        for call in calls(LayerOp, "width", lambda: nas.delta_nout(graph, variables, {"d1": -5}))
        if call.args[1].startswith("d")
    ]
    assert sorted(asked) == ["d1", "d2"]


def test_what_was_removed_lies_in_one_piece_of_memory():
    graph = chain()
    mutation = nas.delta_nout(graph, variables_of(graph), {"d1": -5, "d2": -7})
    (record,) = mutation.undo_records
    removed = [part for parts in record.slices.values() for part in parts if part is not None]
    assert len(removed) == 6  # two biases, the columns of d1, rows and columns of d2, the rows of d3
    assert len({id(part.base) for part in removed}) == 1
    assert (
        sum(part.nbytes for part in removed) <= removed[0].base.nbytes < sum(part.nbytes for part in removed) + 6 * 64
    )


@pytest.mark.parametrize("change", [{"d1": -5}, {"d1": -5, "d2": -7}, {"d1": -5, "d2": 7}], ids=str)
@pytest.mark.parametrize("end", ["kept", "donated", "deleted", "pickled"])
def test_what_was_removed_is_cut_out_when_it_is_asked_for(change: dict[str, int], end: str):
    """Arrays of jax cannot be written to, and their values last as long as the mutation, whatever ends the arrays."""
    graph = chain()
    variables = variables_of(graph)
    expected = jax.tree.map(lambda array: np.array(array), variables)
    made: list[nas.Mutation] = []
    assert calls(undoing, "_peel", lambda: made.append(nas.delta_nout(graph, variables, change))) == []
    (mutation,) = made
    trained = jax.tree.map(jnp.copy, mutation.variables)
    if end == "donated":
        jax.jit(lambda tree: jax.tree.map(lambda a: a * 2, tree), donate_argnums=0)(variables)
    elif end == "deleted":
        jax.tree.map(lambda array: array.delete(), variables)
    elif end == "pickled":
        mutation = pickle.loads(pickle.dumps(mutation))
    chex.assert_trees_all_equal(mutation.undo(trained)[1], expected)


def test_numpy_arrays_can_be_written_to_and_what_is_removed_is_copied_at_once():
    graph = chain()
    variables = jax.tree.map(np.array, variables_of(graph))
    expected = jax.tree.map(np.copy, variables)
    mutation = nas.delta_nout(graph, variables, {"d1": -5})
    jax.tree.map(lambda array: array.fill(0), variables)
    chex.assert_trees_all_equal(mutation.undo(mutation.variables)[1], expected)


def test_two_changes_as_one_hold_no_network_in_between():
    graph = chain()
    first = nas.delta_nout(graph, variables_of(graph), {"d1": -5})
    second = nas.delta_nout(*first, {"d1": -5})
    both = then(first, second, "two steps")
    between = weakref.ref(first.variables["params"]["d1"]["kernel"])
    held = [part.base for parts in both.undo_records[1].slices.values() for part in parts if part is not None]
    assert all(len(base) < 2 * 4 * (256 * 5 + 64) for base in held)
    del first, second
    gc.collect()
    assert between() is None
    chex.assert_trees_all_equal(both.undo(both.variables)[1], variables_of(graph))
