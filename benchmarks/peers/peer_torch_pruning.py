"""Accuracy of the digits network at a budget of parameters, pruned by Torch-Pruning in this run.

    pip install torch==2.13.0 torch-pruning==1.6.1
    python benchmarks/budget_quality.py [--only-peer]

The network of examples/digits.py is rebuilt in torch with the same trained weights; that it computes the same is
checked first. Torch-Pruning takes a ratio of channels and no budget, so that ratios are searched, in steps of 0.005
near each budget, and the largest network within the budget counts. Neither torch nor Torch-Pruning is needed by
naivenas_jax or by any other benchmark: `budget_quality.py` shows these rows where both are installed.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch_pruning as tp
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
import digits

COARSE, FINE = 20, 10  # ratios between 0 and 1, and how many finer steps there are between two of them
CRITERIA = {
    "group L2": lambda: tp.importance.GroupMagnitudeImportance(p=2),
    "L2": lambda: tp.importance.MagnitudeImportance(p=2, group_reduction="first"),
    "random": tp.importance.RandomImportance,
}


# -- The network in torch ----------------------------------------------------------------------------------------------


class Digits(nn.Module):
    """The graph of `digits.build`, with channels before positions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)
        self.inner, self.inner_norm = nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)
        self.outer, self.outer_norm = nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)
        self.fine, self.fine_norm = nn.Conv2d(32, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64)
        self.squeeze = nn.Conv2d(32, 24, 1)
        self.coarse, self.coarse_norm = nn.Conv2d(24, 32, 5, padding=2, bias=False), nn.BatchNorm2d(32)
        self.hidden, self.hidden_norm = nn.Linear(96, 128, bias=False), nn.BatchNorm1d(128)
        self.digit = nn.Linear(128, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        stem = torch.relu(self.stem_norm(self.stem(image)))
        inner = torch.relu(self.inner_norm(self.inner(stem)))
        block = torch.relu(self.outer_norm(self.outer(inner)) + stem)
        pool = nn.functional.max_pool2d(block, 2)
        fine = torch.relu(self.fine_norm(self.fine(pool)))
        coarse = torch.relu(self.coarse_norm(self.coarse(self.squeeze(pool))))
        mean = torch.cat([fine, coarse], 1).mean((2, 3))
        return self.digit(torch.relu(self.hidden_norm(self.hidden(mean))))


def rebuilt(variables: Any) -> Digits:
    """The network in torch, with the weights of the Flax network."""
    state = {}
    for name, arrays in variables["params"].items():
        for kind, array in arrays.items():
            array = np.asarray(array)
            if kind == "kernel":  # (height, width, in, out) or (in, out) become (out, in, ...)
                array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
            state[f"{name}.{'bias' if kind == 'bias' else 'weight'}"] = torch.tensor(array)
    for name, arrays in variables["batch_stats"].items():
        state[f"{name}.running_mean"] = torch.tensor(np.asarray(arrays["mean"]))
        state[f"{name}.running_var"] = torch.tensor(np.asarray(arrays["var"]))
        state[f"{name}.num_batches_tracked"] = torch.tensor(0)
    network = Digits()
    network.load_state_dict(state)
    return network.eval()


def as_torch(images: np.ndarray) -> torch.Tensor:
    return torch.tensor(images.transpose(0, 3, 1, 2))


def check_same(network: Digits, variables: Any, data: digits.Data) -> float:
    """The largest difference to the outputs of the Flax network; an error where it is above 1e-4."""
    with torch.no_grad():
        here = network(as_torch(data.test_images)).numpy()
    difference = float(np.abs(here - np.asarray(digits.predict(digits.build(), variables, data.test_images))).max())
    if difference > 1e-4:
        raise ValueError(f"The network in torch computes something else: outputs differ by {difference:.1g}.")
    return difference


# -- Pruning -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pruned:
    network: nn.Module
    params: int
    cpu: float  # seconds, without the search


def size(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def pruned(network: nn.Module, criterion: str, everywhere: bool, seed: int, ratio: float) -> Pruned:
    """The network less a share of the channels: of every layer, or of all ranked together; ``digit`` keeps its own."""
    started = time.process_time()
    torch.manual_seed(seed)  # of the random criterion
    smaller = copy.deepcopy(network)
    pruner = tp.pruner.MagnitudePruner(
        smaller,
        torch.zeros(1, 1, 8, 8),
        importance=CRITERIA[criterion](),
        global_pruning=everywhere,
        pruning_ratio=ratio,
        ignored_layers=[smaller.digit],
    )
    pruner.step()
    return Pruned(smaller, size(smaller), time.process_time() - started)


def searched(prune: Callable[[float], Pruned], bounds: Iterable[float]) -> list[Pruned]:
    """Networks at ratios that are coarse but near the bounds: for each, finer ones below the first that fits."""
    found = {step: prune(step / COARSE / FINE) for step in range(FINE, COARSE * FINE + 1, FINE)}
    for bound in bounds:
        first = next((step for step in sorted(found) if found[step].params <= bound), None)
        for step in range(first - FINE + 1, first) if first else ():
            found[step] = prune(step / COARSE / FINE)
    return list(found.values())


def largest(candidates: list[Pruned], bound: float) -> Pruned | None:
    fitting = [one for one in candidates if one.params <= bound]
    return max(fitting, key=lambda one: one.params, default=None)


def reestimated(network: nn.Module, images: torch.Tensor) -> nn.Module:
    """With the batch statistics of all images at once."""
    network = copy.deepcopy(network)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the mean of all batches, of which there is one
    with torch.no_grad():
        network.train()(images)
    return network.eval()


def accuracy(network: nn.Module, images: torch.Tensor, labels: np.ndarray) -> float:
    with torch.no_grad():
        return float((network(images).argmax(1).numpy() == labels).mean())


def rows(seed: int, variables: Any, data: digits.Data, budgets: Sequence[float]) -> list[dict[str, Any]]:
    """A row per method and budget, with the keys of `budget_quality.measure`; none where no ratio is small enough."""
    network = rebuilt(variables)
    check_same(network, variables, data)
    train, test = as_torch(data.train_images), as_torch(data.test_images)
    found = []
    for criterion in CRITERIA:
        for everywhere in (False, True):
            name = f"Torch-Pruning, {criterion}, {'all layers ranked together' if everywhere else 'one ratio'}"
            bounds = {budget: budget * size(network) for budget in budgets}
            candidates = searched(partial(pruned, network, criterion, everywhere, seed), bounds.values())
            for budget, bound in bounds.items():
                best = largest(candidates, bound)
                if best is None:
                    continue
                common = {"budget": budget, "seed": seed, "params": best.params, "cpu": best.cpu}
                for method, made in ((name, best.network), (f"{name}, re-estimated", reestimated(best.network, train))):
                    found.append({"method": method, **common, "accuracy": accuracy(made, test, data.test_labels)})
    return found
