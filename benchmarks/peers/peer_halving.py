"""All channels of a published network halved by Torch-Pruning, in a process of its own; see `benchmarks/halving.py`.

    pip install torch==2.13.0 torchvision==0.28.0 transformers==5.24.0 torch-pruning==1.6.1
    python benchmarks/peers/peer_halving.py ResNet-50

Prints what `halving.py` prints for naivenas_jax. One thread, so that CPU seconds are no waiting of others.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch_pruning as tp
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from machine import measured

RATIO = 0.5
PACKAGES = "torch", "torch-pruning", "torchvision", "transformers"
#: The function of torchvision that makes each network.
VISION = {
    "ResNet-50": "resnet50",
    "DenseNet-121": "densenet121",
    "MobileNetV2": "mobilenet_v2",
    "ViT-B/16": "vit_b_16",
    "ConvNeXt-T": "convnext_tiny",
}


def network(name: str) -> tuple[nn.Module, Any]:
    """A network with random weights, and an input."""
    if name == "BERT-base":
        from transformers import BertConfig, BertModel

        return BertModel(BertConfig()).eval(), {"input_ids": torch.ones(1, 128, dtype=torch.long)}
    from torchvision import models

    return getattr(models, VISION[name])(weights=None).eval(), torch.randn(1, 3, 224, 224)


def heads(model: nn.Module) -> dict[nn.Module, int]:
    """How many heads the projections of attentions have."""
    found: dict[nn.Module, int] = {}
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            found[module] = module.num_heads
        elif hasattr(module, "num_attention_heads") and hasattr(module, "query"):
            found |= dict.fromkeys((module.query, module.key, module.value), module.num_attention_heads)
    return found


def halve(model: nn.Module, given: Any) -> None:
    """Halve all channels but those of the outputs, in place."""
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    pruner = tp.pruner.MagnitudePruner(
        model,
        given,
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=RATIO,
        ignored_layers=[last],
        num_heads=heads(model),
        output_transform=(lambda out: out.pooler_output.sum()) if isinstance(given, dict) else None,
    )
    pruner.step()


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def main(name: str) -> None:
    torch.set_num_threads(1)
    small = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 222 * 222, 2))
    halve(small.eval(), torch.randn(1, 3, 224, 224))  # what takes time once in a process
    model, given = network(name)
    before = size(model)

    def prepared() -> Callable[[], object]:
        own = copy.deepcopy(model)

        def run() -> nn.Module:
            halve(own, given)
            return own

        return run

    found = measured(prepared)
    own = copy.deepcopy(model)
    halve(own, given)
    versions = ", ".join(
        f"{name} {version(name)}" for name in ("torch", "torch-pruning", "torchvision", "transformers")
    )
    print(json.dumps({**found, "before": before, "after": size(own), "versions": versions}))


if __name__ == "__main__":
    main(sys.argv[1])
