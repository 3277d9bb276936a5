"""Selective recompute: which operations of a block the backward pass computes again.

Words are those of the stacks. core_attn is Megatron-Core's selective recompute (Korthikanti et al.
2022, section 5); the others are its --recompute-modules. full is not here: it keeps a layer's input
alone, which needs no list.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from planner.errors import unknown
from planner.memory.tape import Again
from planner.model.operations import Block, Operation


@dataclass(frozen=True)
class Module:
    """Operations that are computed again together, and whether their output is dropped too.

    together: all of a block's at once, whatever runs between them
    """

    holds: Callable[[Operation], bool]
    drops_output: bool = False
    together: bool = False
    keeps_products: bool = False
    compiled: bool = False

    def again(self, run: list[int]) -> Again:
        return Again(frozenset(run), self.drops_output, self.keeps_products, self.compiled)


LATENT = ("q_a_layernorm", "q_b_proj", "kv_a_layernorm", "kv_b_proj")


def _is_latent_up_projection(op: Operation) -> bool:
    """MLA from the compressed queries and keys to what the attention reads."""
    if op.name.rsplit(".", 1)[-1] in LATENT:
        return True
    return op.group == "attention" and op.kind in ("split", "rotary", "concatenate", "copy")


def _is_latent(block: Block) -> bool:
    return any(op.name.endswith("kv_b_proj") for op in block.operations)


MODULES = {
    # torchtitan's selective_ac_option "op" (distributed/activation_checkpoint.py)
    "every_second_product": Module(lambda op: True, keeps_products=True),
    "every_second_product_compiled": Module(lambda op: True, keeps_products=True, compiled=True),
    "core_attn": Module(lambda op: op.kind == "attention"),
    "layernorm": Module(lambda op: op.group == "norm" and "." not in op.name, drops_output=True),
    "mlp": Module(lambda op: op.group == "feed_forward"),
    "moe": Module(lambda op: op.group in ("experts", "router")),
    "moe_act": Module(lambda op: False),  # inside the experts' kernel, which reads the word itself
    "mla_up_proj": Module(_is_latent_up_projection, drops_output=True, together=True),
}


def repeated_operations(block: Block, words: Sequence[str]) -> frozenset[int]:
    """Numbers of the operations that the backward pass really runs again: what time it costs.

    Where products are kept, attention and every second product, from the first, are not repeated.
    """
    numbers: set[int] = set()
    for run in computed_again(block, words):
        products = [i for i in sorted(run.operations) if block.operations[i].kind in PRODUCTS]
        spared = set(products[::2]) if run.keeps_products else set()
        if run.keeps_products:
            spared |= {i for i in run.operations if block.operations[i].kind == "attention"}
        numbers |= run.operations - spared
    return frozenset(numbers)


PRODUCTS = ("linear", "experts")


def computed_again(block: Block, words: Sequence[str]) -> tuple[Again, ...]:
    """The runs of operations that these words name in a block."""
    runs: list[Again] = []
    for word in words:
        if word not in MODULES:
            raise unknown("recompute module", word, MODULES)
        module = MODULES[word]
        if word == "mla_up_proj" and not _is_latent(block):
            continue
        if module.together:
            held = [i for i, op in enumerate(block.operations) if module.holds(op)]
            runs.append(Again(frozenset(held), module.drops_output))
            continue
        run: list[int] = []
        for index, operation in enumerate(block.operations):
            if module.holds(operation):
                run.append(index)
            elif run:
                runs.append(module.again(run))
                run = []
        if run:
            runs.append(module.again(run))
    return tuple(runs)
