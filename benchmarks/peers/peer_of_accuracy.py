"""Two networks of the table of accuracies, pruned by Torch-Pruning: rows for `benchmarks/accuracy.py`.

    pip install torch==2.13.0 torch-pruning==1.6.1
    python benchmarks/peers/peer_of_accuracy.py --results accuracy.json

The networks are rebuilt in torch with the same trained weights; that they compute the same is checked first. Channels
are ranked together by the L2 norm of their group. Ratios are searched as in `peer_torch_pruning`, and the largest
network within each budget counts, as it is and with batch statistics estimated again on the images of the training.
`accuracy.py --results accuracy.json --write ...` shows the rows.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import pad

sys.path.insert(0, str(Path(__file__).parents[1]))
import accuracy
from machine import revision
from networks import subject, trained
from peers.peer_torch_pruning import accuracy as accuracy_of, as_torch, largest, pruned, reestimated, searched, size

CRITERION = "group L2"
ATOL = 1e-4


class Padded(nn.Conv2d):
    """A convolution that pads as Flax does: where a stride leaves an odd number of pixels, more of them behind."""

    def __init__(self, before: int, after: int, window: int, stride: int = 1, bias: bool = True):
        super().__init__(before, after, window, stride, bias=bias)
        missing = max(window - stride, 0)  # images are 8 or 4 pixels wide, and strides divide that
        self.sides = (missing // 2, missing - missing // 2) * 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(pad(x, self.sides))


class Residual(nn.Module):
    """`trained.Residual`, with channels before positions. Layers lie in the order of their Flax names."""

    def __init__(self) -> None:
        super().__init__()
        plan = [(1, 24, 3, 1), (24, 24, 3, 1), (24, 24, 3, 1), (24, 48, 3, 2), (48, 48, 3, 1), (24, 48, 1, 2),
                (48, 48, 3, 1), (48, 48, 3, 1)]  # fmt: skip
        self.convs = nn.ModuleList(Padded(*each, bias=False) for each in plan)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _, width, _, _ in plan)
        self.digit = nn.Linear(48, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        def made(i: int, x: torch.Tensor) -> torch.Tensor:
            return self.norms[i](self.convs[i](x))  # type: ignore[no-any-return]  # of a list of modules

        x = torch.relu(made(0, x))
        x = torch.relu(x + made(2, torch.relu(made(1, x))))
        x = torch.relu(made(5, x) + made(4, torch.relu(made(3, x))))
        x = torch.relu(x + made(7, torch.relu(made(6, x))))
        return self.digit(x.mean((2, 3)))  # type: ignore[no-any-return]

    def layers(self) -> dict[str, nn.Module]:
        own = {f"Conv_{i}": conv for i, conv in enumerate(self.convs)}
        return {**own, **{f"BatchNorm_{i}": norm for i, norm in enumerate(self.norms)}, "Dense_0": self.digit}


class Branches(nn.Module):
    """`trained.Branches`, with channels before positions."""

    def __init__(self) -> None:
        super().__init__()
        plan = [(24, 40, 3, 2), (1, 24, 3, 1), (24, 24, 5, 2), (16, 24, 1, 1), (1, 16, 3, 1), (64, 48, 3, 1)]
        self.convs = nn.ModuleList(Padded(*each) for each in plan)
        self.hidden, self.digit = nn.Linear(48, 96), nn.Linear(96, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        def made(i: int, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.convs[i](x))

        both = made(5, torch.cat([made(0, made(1, x)), made(2, made(3, made(4, x)))], 1))
        return self.digit(torch.relu(self.hidden(both.mean((2, 3)))))  # type: ignore[no-any-return]

    def layers(self) -> dict[str, nn.Module]:
        own = {f"Conv_{i}": conv for i, conv in enumerate(self.convs)}
        return {**own, "Dense_0": self.digit, "Dense_1": self.hidden}


NETWORKS = {"residual": (Residual, trained.EPOCHS), "branches": (Branches, trained.LONG)}


def rebuilt(name: str, variables: Any) -> nn.Module:
    """The network in torch, with the weights of the Flax network."""
    network = NETWORKS[name][0]()
    for layer, module in network.layers().items():
        own = {**variables["params"][layer], **variables.get("batch_stats", {}).get(layer, {})}
        state = {key: torch.tensor(np.asarray(array)) for key, array in own.items()}
        names = {"scale": "weight", "mean": "running_mean", "var": "running_var", "bias": "bias"}
        found = {names[key]: array for key, array in state.items() if key != "kernel"}
        if "kernel" in state:
            found["weight"] = state["kernel"].permute(3, 2, 0, 1) if state["kernel"].ndim == 4 else state["kernel"].T
        module.load_state_dict(found, strict=False)  # batches are not counted
    return network.eval()


def rows(name: str, seed: int) -> list[dict[str, Any]]:
    """A row for each share, raw and with statistics estimated again, where there are some."""
    own = trained.SUBJECTS[name].prepare(seed)  # trains, if need be
    variables = subject.kept(f"{name}-{seed}-{NETWORKS[name][1]}", lambda: own.variables)
    seen, unseen, _, labels = trained.digits()
    network = rebuilt(name, variables)
    here = network(as_torch(unseen)).detach().numpy()
    if not np.allclose(here, subject.outputs(own.graph, own.variables, [unseen]), atol=ATOL):
        raise ValueError(f"{name} computes something else in torch.")
    bounds = {share: share * size(network) for share in accuracy.shares_of(trained.SUBJECTS[name])}
    candidates = searched(partial(pruned, network, CRITERION, True, seed), bounds.values())
    found = []
    for share, bound in bounds.items():
        best = largest(candidates, bound)
        if best is None:
            continue
        common = {"network": name, "seed": seed, "share": share, "params": best.params, "cpu": best.cpu,
                  "revision": revision()}  # fmt: skip
        raw, again = accuracy.PEERS
        found.append({**common, "way": raw, "figure": accuracy_of(best.network, as_torch(unseen), labels)})
        if "batch_stats" in variables:
            fitted = reestimated(best.network, as_torch(seen))
            found.append({**common, "way": again, "figure": accuracy_of(fitted, as_torch(unseen), labels)})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", nargs="*", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--results", type=Path, default=Path("accuracy.json"))
    args = parser.parse_args()
    results = accuracy.Results(args.results)
    results.forget(accuracy.PEERS, args.network)
    for name in args.network:
        for seed in range(args.seeds):
            for row in rows(name, seed):
                results.add(row)


if __name__ == "__main__":
    main()
