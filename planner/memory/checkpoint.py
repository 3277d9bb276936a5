"""What a checkpoint of the training state holds."""

from __future__ import annotations

from planner.memory.profile import ModelRows
from planner.memory.states import adapter_itemsize, optimizer_bytes
from planner.numeric import Number
from planner.training.layout import Layout
from planner.training.optimizers import optimizer
from planner.training.precision import Precision
from planner.training.recipe import Recipe


def checkpoint_bytes(model: ModelRows, recipe: Recipe, policy: Precision) -> Number:
    """Trained weights as the model has them, their master copies and optimizer states [bytes].

    Each once, however it is divided; frozen weights are not written again. Mixed precision with
    AdamW: 2 + 4 + 8 bytes a parameter (Megatron-Core's distributed checkpoints, DeepSpeed's).
    """
    full = recipe.finetune is None
    blocks = [(layer.trained, len(layer.positions)) for layer in model.layers]
    if full:
        blocks += [(model.embedding.trained, 1), (model.head.trained, 1)]
    updated = policy.updated if full else adapter_itemsize(recipe)
    stored = policy.parameter if full else updated
    total: Number = 0
    for weights, count in blocks:
        total = total + count * optimizer_bytes(
            weights,
            Layout(),
            optimizer(recipe.optimizer),
            updated,
            ranks=1,
            by_rows=False,
            master=(policy.master if full else 0.0) + stored,
        )
    return total
