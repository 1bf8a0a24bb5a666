"""Neurons and their ties, read off a graph's public queries one neuron at a time.

Shares no code with ``naivenas_jax.sizes`` and ``naivenas_jax.align``, so that it can disagree with them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import naivenas_jax as nas
from naivenas_jax.graph.source import Source
from naivenas_jax.graph.vertices.arithmetic import Elementwise
from naivenas_jax.graph.vertices.custom import Custom
from naivenas_jax.graph.vertices.function import Immutable, Invariant
from naivenas_jax.graph.vertices.stack import Concat, Flatten
from naivenas_jax.graph.vertices.subgraph import Subgraph
from naivenas_jax.layers.ops.layer_op import LayerOp


@dataclass
class Network:
    """Every neuron of every axis has a number; ``ties`` are pairs of equally long arrays of numbers.

    Attributes:
      axes: the numbers of the neurons of each axis.
      ties: which neurons are the same one, and the two axes that hold them.
      fixed: neurons that may not change.
    """

    axes: dict[str, np.ndarray] = field(default_factory=dict)
    ties: list[tuple[str, str, np.ndarray, np.ndarray]] = field(default_factory=list)
    fixed: list[np.ndarray] = field(default_factory=list)
    count: int = 0

    @classmethod
    def of(cls, graph: nas.Graph) -> Network:
        """Read a graph vertex by vertex."""
        network = cls()
        network._read(graph, "", {})
        return network

    def _axis(self, name: str, size: int) -> None:
        self.axes[name] = np.arange(self.count, self.count + size)
        self.count += size

    def _tie(self, a: str, b: str, part: slice = slice(None)) -> None:
        """The neurons of ``a`` are those of ``part`` of ``b``, in order."""
        left, right = self.axes[a], self.axes[b][part]
        assert len(left) == len(right)
        self.ties.append((a, b, left, right))

    def _read(self, graph: nas.Graph, prefix: str, fed: Mapping[str, str]) -> None:
        for vertex in graph.vertices:
            name = prefix + vertex.name
            self._axis(name, graph.nout(vertex.name))
            sources = [prefix + source for source in graph.inputs_of(vertex.name)]
            if vertex.name in fed:
                self._tie(name, fed[vertex.name])
            else:
                self._vertex(vertex.op, name, sources)

    def _vertex(self, op: Any, name: str, sources: list[str]) -> None:
        """What each kind of vertex ties."""
        match op:
            case Source():
                pass
            case Elementwise():
                for source in sources:
                    if len(self.axes[source]) == len(self.axes[name]):
                        self._tie(source, name)
                    else:  # a single neuron, broadcast
                        self.fixed.append(self.axes[source])
            case Concat():
                offset = 0
                for source in sources:
                    size = len(self.axes[source])
                    self._tie(source, name, slice(offset, offset + size))
                    offset += size
            case Flatten():
                size = len(self.axes[sources[0]])
                for start in range(0, len(self.axes[name]), size):
                    self._tie(sources[0], name, slice(start, start + size))
            case Subgraph():
                inner = op.graph
                fed = {vertex.name: source for vertex, source in zip(inner.inputs, sources, strict=True)}
                self._read(inner, f"{name}/", fed)
                self._tie(name, f"{name}/{inner.outputs[0].name}")
            case Immutable():
                self.fixed += [self.axes[axis] for axis in (*sources, name)]
            case Custom():
                for factor, size in op.inner:
                    self._axis(f"{name}:{factor}", size)
            case Invariant():
                for source in sources:
                    self._tie(source, name)
            case LayerOp():
                if not op.absorbs:
                    self._tie(sources[0], name)
                if op.rule.fixed:
                    self.fixed += [self.axes[axis] for axis in (*sources, name)]
            case _:
                raise NotImplementedError(f"The reference does not know {type(op).__name__}.")

    def repeats(self) -> bool:
        """Whether some axis holds a neuron more than once."""
        parent = np.arange(self.count)

        def root(i: int) -> int:
            while parent[i] != i:
                i = parent[i]
            return i

        for _, _, left, right in self.ties:
            for a, b in zip(left.tolist(), right.tolist(), strict=True):
                parent[root(a)] = root(b)
        return any(len({root(i) for i in numbers}) < len(numbers) for numbers in self.axes.values())

    def reach(self, names: Iterable[str]) -> set[str]:
        """The axes that hold a neuron which is tied, however indirectly, to one of ``names``; and all on these."""
        neighbours: dict[str, set[str]] = {axis: set() for axis in self.axes}
        for a, b, _, _ in self.ties:
            neighbours[a].add(b)
            neighbours[b].add(a)
        reached, todo = set(names), list(names)
        while todo:
            fresh = neighbours[todo.pop()] - reached
            reached |= fresh
            todo += fresh
        return reached


def disagreements(graph: nas.Graph, plan: nas.Plan) -> list[str]:
    """Where a plan treats tied neurons differently: what stays, what is new, and in which order. Empty: nowhere."""
    network, found = Network.of(graph), []
    covered: dict[str, list[np.ndarray]] = {}
    for inner, outer, _, right in network.ties:
        offset = right[0] - network.axes[outer][0]
        source = plan.axes[inner].source
        parts = covered.setdefault(outer, [])
        parts.append(np.where(source < 0, source, source + offset))
        if right[-1] == network.axes[outer][-1]:  # the parts of the outer axis are complete
            if not np.array_equal(np.concatenate(parts), plan.axes[outer].source):
                found.append(f"{inner} and {outer}: {parts} and {plan.axes[outer].source}")
            covered[outer] = []
    for axis, change in plan.axes.items():
        if (np.diff(change.kept) <= 0).any():
            found.append(f"{axis} is reordered: {change.kept}")
    return found
