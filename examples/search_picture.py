"""What `search.py` has found, as a picture: all networks with the front among them, and the best one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

import naivenas_jax as nas


def draw(seen: Sequence[Any], left: Sequence[Any], objectives: Sequence[str], path: Path) -> None:
    """The first two objectives as axes, the third as colour; beside them the network that is best by the first."""
    best = min(left, key=lambda each: each.goals)
    figure, (points, network) = plt.subplots(1, 2, figsize=(12, 6))
    draw_points(points, np.array([each.goals for each in seen]), objectives)
    draw_network(network, best.graph)
    network.set_title(f"the best: {objectives[0]} {best.goals[0]:.3g}")
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def draw_points(axes: Axes, goals: np.ndarray, objectives: Sequence[str]) -> None:
    front = goals[NonDominatedSorting().do(goals, only_non_dominated_front=True)]
    second = min(1, goals.shape[1] - 1)
    dots = axes.scatter(goals[:, second], goals[:, 0], s=14, c=goals[:, -1], cmap="viridis")
    axes.figure.colorbar(dots, ax=axes, label=objectives[-1])
    axes.scatter(front[:, second], front[:, 0], s=70, facecolors="none", edgecolors="tab:red", label="front")
    axes.set(xlabel=objectives[second], ylabel=objectives[0], xscale="log", title=f"{len(goals)} networks")
    axes.legend()


def draw_network(axes: Axes, graph: nas.Graph) -> None:
    """Vertices by depth, each with its width; edges that skip some are bent."""
    depth: dict[nas.Vertex, int] = {}
    place: dict[nas.Vertex, tuple[int, int]] = {}
    for vertex in graph.vertices:
        depth[vertex] = 1 + max((depth[source] for source in vertex.inputs), default=-1)
        place[vertex] = [*depth.values()].count(depth[vertex]) - 1, -depth[vertex]
    for vertex in graph.vertices:
        box = {"boxstyle": "round", "facecolor": "white"}
        axes.text(*place[vertex], f"{vertex.name}: {vertex.nout}", ha="center", va="center", bbox=box, fontsize=9)
        for number, source in enumerate(vertex.inputs):
            bend = 0.0 if depth[vertex] - depth[source] == 1 else 0.4 + 0.1 * number
            arrow = {"arrowstyle": "->", "connectionstyle": f"arc3,rad={bend}", "color": "gray"}
            axes.annotate("", place[vertex], place[source], arrowprops={**arrow, "shrinkA": 10, "shrinkB": 10})
    axes.set(xlim=(-1.5, 1 + max(x for x, _ in place.values())), ylim=(-max(depth.values()) - 0.5, 0.5))
    axes.axis("off")
