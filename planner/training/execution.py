"""How a stack is told to run its kernels: graphs, dispatch of experts, what overlaps with what."""

from __future__ import annotations

from dataclasses import dataclass

# dp: gradient reductions and parameter gathers behind compute; dp-reduce: the reductions alone;
# tp: tensor-parallel traffic behind the product beside it; pp: sends of a pipeline behind the next
# pass; ep: dispatch and combine of experts behind another micro-batch's compute. opt, wgrad and
# shared (the optimizer's step, weight gradients, the shared expert) are told by measured runs, and
# nothing is worked out of them.
OVERLAPS = ("dp", "dp-reduce", "tp", "pp", "ep", "opt", "wgrad", "shared")
DISPATCHERS = ("alltoall", "deepep", "hybridep")
GRAPHS = ("none", "local", "full")
# Megatron-Core's --cuda-graph-scope, captured by Transformer Engine.
GRAPHED_MODULES = ("attn", "mlp", "moe", "moe_router", "moe_preprocess", "mamba")
MODULES_PREFIX = "te:"


@dataclass(frozen=True)
class Execution:
    """None: what the stack does by default.

    cuda_graph   "none", "local" (layer by layer), "full" (the whole iteration), or "te:" and the
                 modules that are captured
    dispatcher   who moves tokens to experts: one of DISPATCHERS
    overlap      words of OVERLAPS
    attention_kernel  as Stack.attention_kernel
    """

    cuda_graph: str = "none"
    dispatcher: str | None = None
    overlap: tuple[str, ...] | None = None
    attention_kernel: str | None = None

    def overlaps(self, word: str, default: bool) -> bool:
        return default if self.overlap is None else word in self.overlap
