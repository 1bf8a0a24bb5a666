"""Something that takes long is shown to whoever waits for it, and to nobody else."""

from __future__ import annotations

import io
import logging
import sys
import time
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from rich.console import Console

import naivenas_jax as nas
from naivenas_jax import progress
from naivenas_jax.progress import tracked, waiting


def console(terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=120)


def written(shown: Console) -> str:
    assert isinstance(shown.file, io.StringIO)
    return shown.file.getvalue()


@pytest.mark.parametrize(("terminal", "seconds", "shown"), [(True, 0.4, True), (True, 0, False), (False, 0.2, False)])
def test_a_line_is_shown_in_a_terminal_after_a_while(terminal, seconds, shown):
    where = console(terminal)
    with waiting("searching", where, patience=0.1) as tell:
        tell("3 tries")
        time.sleep(seconds)
    assert ("searching: 3 tries" in written(where)) == shown
    if not terminal:
        assert not written(where)


def test_it_ends_with_an_error():
    where = console(True)

    def fails():
        with waiting("searching", where, patience=0):
            time.sleep(0.1)
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fails()
    with waiting("again", where, patience=0):  # no other line is on
        time.sleep(0.1)


def test_work_inside_of_other_work_shares_its_line():
    where = console(False)
    with waiting("compress", where, patience=0, progress=True) as tell:
        tell("step 1 of 2")
        with waiting("sizes") as inner:
            inner("3 %")
        with waiting("not this", progress=False) as hidden, waiting("nor what is inside") as more:
            hidden("1")
            more("2")
        tell("step 2 of 2")
        with pytest.raises(ValueError, match="stop"), waiting("sizes"):
            raise ValueError("stop")
        tell("compared")
    lines = [line.partition(" (")[0] for line in written(where).splitlines()]
    assert lines == [
        "compress",
        "compress: step 1 of 2",
        "compress: step 1 of 2, sizes",
        "compress: step 1 of 2, sizes: 3 %",
        "compress: step 1 of 2",
        "compress: step 2 of 2",
        "compress: step 2 of 2, sizes",
        "compress: step 2 of 2",
        "compress: compared",
        "compress: done in 0 s",
    ]


def test_lines_of_text_are_few_and_have_no_control_characters(monkeypatch):
    now = iter(range(1000))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(now)))
    where = console(False)
    with waiting("refine", where, progress=True) as tell:
        for number in range(100):
            tell(f"{number} of 100")
    lines = written(where).splitlines()
    assert len(lines) == 12
    assert lines[1] == "refine: 9 of 100 (11 s)"
    assert lines[-1].startswith("refine: done in ")
    assert written(where).replace("\n", "").isprintable()


def test_a_log_that_wants_it_gets_lines(caplog, monkeypatch):
    monkeypatch.setattr(progress, "_PATIENCE", 0.0)
    with caplog.at_level(logging.INFO, "naivenas_jax"), waiting("import", console(False), patience=0.0) as tell:
        tell("traced")
    assert "import: traced (0 s)" in caplog.messages
    caplog.clear()
    with waiting("import", console(False), patience=0.0) as tell:  # as it is by default
        tell("traced")
    assert not caplog.messages


def test_in_a_notebook_an_output_changes_and_is_empty_in_the_end(monkeypatch):
    shown = []

    class Handle:
        def update(self, data, raw):
            shown.append(data["text/plain"])

    def display(data, raw, display_id):
        shown.append(data["text/plain"])
        return Handle()

    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    monkeypatch.setattr(progress, "_REFRESHED", 0.0)
    notebook = Console(file=io.StringIO(), force_jupyter=True)
    with waiting("compress", notebook, patience=0.0) as tell:
        tell("step 1 of 2")
    assert shown == ["compress (0 s)", "compress: step 1 of 2 (0 s)", ""]
    with waiting("quick", notebook):
        pass
    assert len(shown) == 3


def test_how_many_have_been_begun():
    with waiting("all", where := console(False), patience=0, progress=True), tracked("ab", "letters") as letters:
        assert list(letters) == ["a", "b"]
    assert "all, letters: 2 of 2 (0 s)" in written(where).splitlines()


def test_how_long_the_rest_may_take(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    costs = [1.0, 9.0, 30.0, 60.0]
    where = console(False)
    with (
        waiting("all", where, patience=0, progress=True) as tell,
        tracked(range(4), "fits", costs=costs) as numbers,
    ):
        for number in numbers:
            now[0] += 5 * costs[number]  # seconds: it takes what was told
            tell("")
    said = [line.partition("fits: ")[2] for line in written(where).splitlines() if "fits: " in line]
    assert said[0].startswith("1 of 4 (")
    assert "2 of 4, about 8 min left" in said[1]  # 495 s
    assert "3 of 4, about 8 min left" in said[2]  # 450 s
    assert "4 of 4, about 5 min left" in said[3]


def test_items_without_a_number_have_no_end(monkeypatch):
    now = iter(range(0, 1000, 10))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(now)))
    where = console(False)
    with waiting("all", where, patience=0, progress=True), tracked(iter("abc"), "letters") as letters:
        assert list(letters) == ["a", "b", "c"]
    assert "left" not in written(where)


class Model(nn.Module):
    width: int = 6

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(nn.relu(nn.Dense(self.width, name="hidden")(x)))


X = jnp.ones((4, 3))


def model():
    return nas.from_linen(Model(), Model().init(jax.random.key(0), X), X)


def seconds(graph):
    return 1e-6 * graph.handles()["hidden"].size


LONG = {
    "model: its ties are found": lambda graph, variables: model(),
    "sizes within budgets: at most 0.00% more": lambda *net: nas.resize(*net, max_params=0.6),
    "sizes within max_latency: attempt 2": lambda *net: nas.resize(*net, max_latency=0.6, latency=seconds),
    "sizes (": lambda *net: nas.resize(*net, minimise=nas.size("hidden")),
    "measure_latency, operations: 2 of 2": lambda *net: nas.measure_latency(*net, X, timer=lambda *_: 1.0),
    "class_constraints Model, numbers: 1 of": lambda graph, _: nas.class_constraints(Model(), graph),
    "rebuild Model, its numbers: 1 of at most": lambda *net: nas.rebuild(Model(), nas.delta_nout(*net, {"hidden": -2})),
    "compress: step 1 of 1, sizes within": lambda *net: nas.compress(*net, [X], max_params=0.6, steps=1, refine=0),
}


@pytest.mark.parametrize("line", LONG)
def test_what_may_take_long_says_how_far_it_is(line, monkeypatch, caplog):
    net = model()
    monkeypatch.setattr(progress, "_APART", 0.0)
    monkeypatch.setattr(progress.waiting.__wrapped__, "__defaults__", (None, 0.0, None))
    with caplog.at_level(logging.INFO, "naivenas_jax"):
        LONG[line](*net)
    assert any(message.startswith(line) for message in caplog.messages), caplog.messages


def test_it_is_asked_for_by_a_flag(capsys):
    graph, variables = model()
    mutation = nas.delta_nout(graph, variables, {"hidden": -2})
    nas.compensate(mutation, [X], progress=True)  # takes less than a second
    with pytest.raises(nas.PlanError, match="progress must be True, False or None"):
        nas.compensate(mutation, [X], progress="yes")
    assert capsys.readouterr().err == ""


def test_whatever_goes_over_data_says_how_far_it_is():
    """Batch by batch, also of an iterator, of which nobody knows how many there are."""
    x = nas.input_vertex("x", 3)
    norm = nas.layer("norm", nn.BatchNorm(use_running_average=True), nas.layer("hidden", nn.Dense(4), x))
    graph = nas.Graph(x, nas.layer("out", nn.Dense(2), norm))
    batch = jnp.arange(12.0).reshape(4, 3)
    variables = graph.init(jax.random.key(0), batch)

    def loss(apply, variables, batch):
        return (apply(variables, batch) ** 2).mean()

    for name, run, last in (
        ("taylor", lambda **how: nas.taylor(graph, variables, loss, iter([batch] * 2), **how), "batches: 2"),
        ("fisher", lambda **how: nas.fisher(graph, variables, loss, [batch], **how), "batches: 1"),
        ("activity", lambda **how: nas.activity(graph, variables, [batch] * 2, **how), "batches: 2"),
        ("recalibrate", lambda **how: nas.recalibrate(graph, variables, [batch], **how), "normalisations: 1 of 1"),
    ):
        with waiting("all", where := console(False), patience=0, progress=True):
            run()
        assert f"all, {name}, {last}" in written(where), name
        with waiting("all", where := console(False), patience=0, progress=True):
            run(progress=False)
        assert name not in written(where)
        with pytest.raises(nas.NaiveNASError, match="progress must be True, False or None"):
            run(progress="yes")
