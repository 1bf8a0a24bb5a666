"""A good call of every public function, and of every method of a public class."""

from __future__ import annotations

import inspect
import logging
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
import optax
from networks import X, images, loss, model, narrower, network, rebuildable, run, saved, seconds, timed, times

import naivenas_jax as nas


class Call(NamedTuple):
    """A function with its arguments by name; ``*inputs`` are given as a tuple."""

    function: Callable[..., Any]
    arguments: dict[str, Any]

    def __call__(self, **others: Any) -> Any:
        """Call the function, with other arguments for some; what is another for ``*inputs`` is one of them."""
        given = {**self.arguments, **others}
        names = inspect.signature(self.function).parameters
        variable = next((name for name, each in names.items() if each.kind is each.VAR_POSITIONAL), None)
        if variable is None:
            return self.function(**given)
        several = (given.pop(variable),) if variable in others else given.pop(variable, ())
        before = list(names)[: list(names).index(variable)]
        return self.function(*(given.pop(name) for name in before), *several, **given)


#: Classes whose values the library makes and hands out: their constructors check nothing, and are no door.
RESULTS = (
    *("Handle", "Summary", "Costs", "Diagram", "LatencyTable", "CompiledPrograms"),
    *("Mutation", "Plan", "CarryReport", "Report", "NewEntries", "Saved", "Frontier", "FrontierPoint"),
    *(
        "AxisPlan",
        "TaylorAverage",
        "Gradual",
        "Soft",
        "Population",
        "watch.SizeChange",
        "Vertex",
        "HistoryEntry",
        "Canonical",
        "TrainedMember",
    ),
)
#: Dicts of keywords for annotations, which are not called.
ANNOTATIONS = ("VerbKeywords", "WidthKeywords", "EditKeywords")


def surface() -> Iterator[tuple[str, Any]]:
    """Everything public that can be called, but errors: functions, classes, and methods of classes."""
    for name in nas.__all__:
        public = getattr(nas, name)
        inner = {f"{name}.{each}": getattr(public, each) for each in public.__all__} if inspect.ismodule(public) else {}
        for each, value in (inner or {name: public}).items():
            if not (inspect.isclass(value) and issubclass(value, Exception)):
                yield each, value
                yield from _methods(each, value)


def _methods(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    for each in dir(value) if inspect.isclass(value) else ():
        static = inspect.getattr_static(value, each)
        function = getattr(static, "__func__", static)
        ours = inspect.isfunction(function) and function.__module__.startswith("naivenas_jax")
        if ours and not each.startswith("_"):
            yield f"{name}.{each}", getattr(value, each)


@cache
def calls() -> dict[str, Call]:
    """A good call for each name of the surface."""
    functions = {name: Call(getattr(nas, name), arguments) for name, arguments in _of_functions().items()}
    return {**functions, **_of_modules(), **_of_graphs(), **_of_results()}


def _of_functions() -> dict[str, dict[str, Any]]:
    graph, variables = network()
    on = {"graph": graph, "variables": variables}
    v = nas.input_vertex("v", 4)
    tokens = nas.layer("tokens", nn.Embed(10, 4), nas.input_vertex("ids", 10, dtype="int32"))
    scores = {"a": np.ones(6), "c": np.ones(4)}
    batches = [X, X]
    dense = nn.Dense(4)
    params = dense.init(jax.random.key(0), X)
    return {
        "input_vertex": {"name": "new", "size": 3},
        "layer": {"name": "new", "flax_module": nn.Dense(3), "inputs": (v,)},
        "invariant_vertex": {"name": "new", "fn": nn.relu, "inputs": (v,)},
        "immutable_vertex": {"name": "new", "fn": nn.relu, "inputs": (v,)},
        "absorb_vertex": {"name": "new", "fn": times, "inputs": (v,), "nout": 3, "params": {"w": "in out"}},
        "concat": {"name": "new", "inputs": (v, v)},
        "flatten": {"name": "new", "vertex": nas.input_vertex("image", 3, shape=(2, 3))},
        "attend": {"name": "new", "table": tokens, "query": nas.layer("query", nn.Dense(4), tokens)},
        "Graph": {"inputs": v, "outputs": -v},
        "apply": {**on, "inputs": (X,)},
        "register_layer": {"layer_type": type("Layer", (nn.Module,), {}), "rule": nas.LayerRule(leaves={})},
        "from_linen": {"module": dense, "variables": params, "inputs": (X,)},
        "from_nnx": {"model": model(), "inputs": (X,)},
        "from_function": {"fn": dense.apply, "variables": params, "inputs": (X,)},
        "rebuild": {"model": model(), "mutation": rebuildable()},
        "class_constraints": {"model": model(), "graph": rebuildable().graph},
        "crossover": {"first": narrower(), "second": network(), "key": jax.random.key(1)},
        "summary": on,
        "diagram": {"graph": graph, "format": "dot"},
        "costs": {**on, "inputs": (X,)},
        "measure_latency": {**on, "inputs": (X,), "timer": seconds},
        "count_programs": {},
        "delta_nout": {**on, "request": {"a": -1}},
        "delta_nin": {**on, "request": {"cat": (-1, None)}},
        "resize": {**on, "max_params": 0.8},
        "to": {"size": 3},
        "relaxed": {"wish": 3},
        "size": {"axis": "a"},
        "multiple_of": {"what": nas.size("a"), "factor": 2},
        "one_of": {"what": nas.size("a"), "sizes": (2, 4)},
        "ladder": {"smallest": 2, "largest": 16, "factor": 2.0, "multiple_of": 2},
        "insert_vertex": {**on, "after": "a", "make": lambda v: nas.layer("new", nn.Dense(3), v)},
        "remove_vertex": {**on, "name": "act"},
        "create_edge": {**on, "source": "c", "target": "cat"},
        "remove_edge": {**on, "source": "c", "target": "cat"},
        "replace_layer": {**on, "name": "a", "make": nn.Dense(5)},
        "map_vertices": {**on, "fn": lambda v: v},
        "rename": {**on, "names": {"a": "first"}},
        "change_kernel": {**dict(zip(("graph", "variables"), images(), strict=True)), "request": {"conv": (5, 5)}},
        "save": {"path": tempfile.mkdtemp() + "/net", **on, "overwrite": True},
        "load": {"path": saved()},
        "register_function": {"name": "tests.times", "fn": times},
        "report": {"mutation": narrower(), "inputs": (X,)},
        "canonical": {"graph": graph},
        "populations": {"members": [narrower(), narrower()], "ladder": (2, 4, 8), "count": 2},
        "train_members": {
            "train": lambda population, state: (population.variables, None, None),
            "members": [narrower()],
        },
        "evaluate_members": {"evaluate": lambda population: np.zeros(len(population)), "members": [narrower()]},
        "random_mutation": {**on, "key": jax.random.key(0), "kinds": {"width_down": 1.0}},
        "SearchSpace": {"sizes": [2, 4, 8]},
        "History": {},
        "replay": {**on, "history": nas.History().add("a", graph).add("b", narrower(), "a")},
        "freeze_mask": {**on, "names": "a"},
        "merge_neurons": {**on, "keep": {"x": [0]}},
        "gradmax": {"loss_fn": loss, "batch": X},
        "magnitude": on,
        "taylor": {**on, "loss_fn": loss, "batches": batches},
        "fisher": {**on, "loss_fn": loss, "batches": batches},
        "activity": {**on, "batches": batches},
        "batchnorm_scale": on,
        "random_utility": {"graph": graph, "rng": jax.random.key(0)},
        "contribution": on,
        "comparable": {"graph": graph, "utility": scores},
        "combine": {"graph": graph, "parts": [(scores, 1.0), (scores, 1.0)]},
        "normalise": {"graph": graph, "utility": scores},
        "replace_nonfinite": {"utility": scores, "value": 0.0},
        "total_utility": {"graph": graph, "utility": scores},
        "compensate": {"mutation": narrower(), "batches": batches},
        "compress": {**on, "batches": batches, "max_params": 0.8},
        "recalibrate": {**on, "batches": batches},
        "refine": {"mutation": narrower(), "batches": batches, "steps": 2},
        "frontier": {**on, "batches": batches, "measure": lambda graph, variables: 0.5, "fractions": (0.8,)},
        "gradual": {**on, "end": 10, "max_params": 0.8},
        "soft_masks": {"mutation": narrower()},
        "masked": {"variables": variables, "masks": nas.soft_masks(narrower())},
        "group_lasso": {"graph": graph, "strength": 0.1},
        "group_shrink": {"graph": graph, "amount": 0.1},
        "LayerRule": {"leaves": {"kernel": "in out"}},
    }


def _of_modules() -> dict[str, Call]:
    graph, variables = network()
    error = nas.InfeasibleError("too small", nearest={"a": 3})
    step = {"graph": graph, "variables": variables, "request": {"a": -1}, "error": error}
    return {
        **{f"fallback.{name}": Call(getattr(nas.fallback, name), step) for name in ("relax", "nearest", "accept")},
        **{f"fallback.{name}": Call(getattr(nas.fallback, name), step) for name in ("keep", "warn")},
        "fallback.log": Call(nas.fallback.log, {"level": logging.DEBUG}),
        "watch.log": Call(nas.watch.log, {"level": logging.DEBUG}),
        "watch.check": Call(nas.watch.check, {"inputs": (X,)}),
    }


def _of_graphs() -> dict[str, Call]:
    graph, variables = network()
    queries = ("ancestors", "descendants", "inputs_of", "nin", "nout", "outputs_of", "vertex")
    return {
        "Vertex.named": Call(nas.input_vertex("v", 4).named, {"name": "w"}),
        **{f"Graph.{name}": Call(getattr(graph, name), {"name": "a"}) for name in queries},
        **{f"Graph.{name}": Call(getattr(graph, name), {}) for name in ("fixed", "handles", "as_module", "summary")},
        **{f"Graph.{name}": Call(getattr(graph, name), {}) for name in ("legal_edges", "removable", "removable_edges")},
        "Graph.can_read": Call(graph.can_read, {"source": "a", "target": "b"}),
        "SearchSpace.sample": Call(nas.SearchSpace(sizes={"a": [2, 4]}).sample, {"key": jax.random.key(0)}),
        "SearchSpace.size": Call(nas.SearchSpace(sizes={"a": [2, 4]}).size, {}),
        "Graph.as_nnx": Call(graph.as_nnx, {"variables": variables}),
        "Graph.find": Call(graph.find, {"what": "a*"}),
        "Graph.reach": Call(graph.reach, {"names": ("a",)}),
        "Graph.check_inputs": Call(graph.check_inputs, {"inputs": (X,)}),
        "Graph.init": Call(graph.init, {"rng": jax.random.key(0), "inputs": (X,)}),
        "Graph.apply": Call(graph.apply, {"variables": variables, "inputs": (X,)}),
        "Graph.run": Call(run, {"inputs": (X,)}),
    }


def _of_results() -> dict[str, Call]:
    graph, variables = network()
    axis, step = nas.AxisPlan.of(4, [0, 2]), {"step": 10, "graph": graph, "variables": variables}
    average = nas.TaylorAverage.init(graph)
    params = {"params": variables["params"]}
    soft, schedule = nas.Soft.whole(graph, variables), nas.gradual(graph, variables, end=10, max_params=0.8)
    mutation = narrower()
    whole = nas.FrontierPoint(None, nas.costs(graph, variables), 0.5)
    points = nas.Frontier(whole, (whole,), "max_params")
    population = nas.Population.of([mutation, nas.delta_nout(graph, variables, {"c": 1})])
    history = nas.History().add("a", (graph, variables), keep=True).add("b", mutation, "a", values={"loss": 0.5})
    return {
        "Summary.totals": Call(graph.summary(variables).totals, {}),
        "LatencyTable.at": Call(timed().at, {"sizes": graph.ties.sizes}),
        "LatencyTable.below": Call(timed().below, {}),
        "LatencyTable.of": Call(timed().of, {"part": "a"}),
        "Mutation.carry": Call(mutation.carry, {"tree": optax.adam(0.1).init(variables["params"])}),
        "Mutation.check": Call(mutation.check, {"inputs": (X,)}),
        "Mutation.indices": Call(mutation.indices, {"handle": "c"}),
        "Mutation.undo": Call(mutation.undo, {"variables": mutation.variables}),
        "Plan.apply": Call(mutation.plan.apply, {"tree": mutation.variables_before}),
        "Plan.axis": Call(mutation.plan.axis, {"name": "c"}),
        "Plan.factor": Call(mutation.plan.factor, {"path": ("params", "c", "kernel")}),
        "Plan.from_json": Call(nas.Plan.from_json, {"text": mutation.plan.to_json()}),
        "Plan.identity": Call(nas.Plan.identity, {"ties": graph.ties}),
        "Plan.to_json": Call(mutation.plan.to_json, {}),
        "AxisPlan.after_plan": Call(nas.AxisPlan.of(2, [1]).after_plan, {"earlier": axis}),
        "AxisPlan.identity": Call(nas.AxisPlan.identity, {"size": 3}),
        "AxisPlan.of": Call(nas.AxisPlan.of, {"before": 4, "source": [0, 2]}),
        "Frontier.smallest": Call(points.smallest, {"loss": 0.1}),
        "Frontier.svg": Call(points.svg, {}),
        "Saved.restore": Call(nas.load(saved()).restore, {"name": "state", "like": optax.sgd(0.1).init({})}),
        "Saved.undo": Call(nas.load(saved()).undo, {"variables": mutation.variables}),
        "Report.svg": Call(nas.report(mutation, X).svg, {}),
        "Report.to_dict": Call(nas.report(mutation, X).to_dict, {}),
        "TaylorAverage.init": Call(nas.TaylorAverage.init, {"graph": graph}),
        "TaylorAverage.scores": Call(average.scores, {}),
        "TaylorAverage.update": Call(average.update, {"params": params, "grads": params}),
        "TaylorAverage.follow": Call(average.follow, {"followed": mutation}),
        "Gradual.bounds": Call(schedule.bounds, {"step": 5}),
        "Gradual.due": Call(schedule.due, {"step": 5}),
        "Gradual.left": Call(schedule.left, {"step": 5}),
        "Gradual.mutation": Call(schedule.mutation, step),
        "Gradual.prune": Call(schedule.prune, step),
        "Gradual.soft": Call(schedule.soft, {"step": 10, "soft": soft, "variables": variables}),
        "Soft.whole": Call(nas.Soft.whole, {"graph": graph, "variables": variables}),
        "Soft.harden": Call(soft.harden, {"variables": variables}),
        "Soft.after": Call(soft.after, {"mutation": mutation, "variables": variables}),
        **{
            f"Canonical.{name}": Call(getattr(nas.canonical(graph), name), {"tree": variables})
            for name in ("rename", "restore")
        },
        "Population.of": Call(nas.Population.of, {"members": [mutation, mutation], "ladder": (2, 4, 8)}),
        "Population.stack": Call(population.stack, {"trees": [population.member(i)[1] for i in range(2)]}),
        "Population.apply": Call(population.apply, {"variables": population.variables, "inputs": (X,)}),
        "Population.init": Call(population.init, {"tx": optax.sgd(0.1)}),
        "Population.member": Call(population.member, {"number": 0, "variables": population.variables}),
        "Population.carry": Call(population.carry, {"tree": population.variables, "number": 0}),
        "Population.put": Call(
            population.put, {"tree": population.variables, "number": 0, "own": population.member(0)[1]}
        ),
        "Population.replace": Call(population.replace, {"number": 0, "change": mutation}),
        "History.add": Call(history.add, {"name": "c", "network": mutation, "parents": "a", "values": {"loss": 0.5}}),
        "History.with_values": Call(history.with_values, {"name": "b", "values": {"loss": 0.4}}),
        "History.plan": Call(history.plan, {"start": "a", "end": "b"}),
        "History.lineage": Call(history.lineage, {"names": ("b",)}),
        **{f"History.{name}": Call(getattr(history, name), {"name": "a"}) for name in ("path", "children", "network")},
        **{f"History.{name}": Call(getattr(history, name), {}) for name in ("to_json", "svg", "mermaid")},
        "History.from_json": Call(history.from_json, {"text": history.to_json()}),
    }
