"""A measured run as the four nouns: what its row says, and what has to be assumed beside it.

What a row leaves open takes the usual value of its stack, and each such value is listed. What a
row says and the planner cannot express makes the row unusable, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from planner.answers.request import Plan, Request, resolve
from planner.errors import PlannerError
from planner.hardware.cluster import Cluster, cluster_of
from planner.hardware.library import find_gpu
from planner.hardware.profile import GpuProfile
from planner.model.sources import load_model
from planner.model.spec import ModelSpec
from planner.training.execution import Execution
from planner.validation.runs import Run
from planner.validation.whole_runs import layouts


class UnusableError(Exception):
    """A row that cannot be predicted; the message is the reason."""


# How a row's notes tell that not all layers are.
_LAYERS_OFFLOADED = re.compile(r"activations of (\d+) of the \d+ layers offloaded")
# ... and how fast a node's network is.
_NODE_NETWORK = re.compile(r"node network (\d+) Gb/s")
# Where bigscience trained: four Omni-Path links of 100 Gb/s in a node of 8 A100 (the model card of
# bigscience/bloom, "Hardware").
_JEAN_ZAY_A100_GIGABITS = 4 * 100
_BYTES_PER_GIGABIT = 1e9 / 8


@dataclass(frozen=True)
class Nouns:
    """One way to run what the row measured; recompute: the policy, where it had to be assumed."""

    model: ModelSpec
    plan: Plan
    cluster: Cluster
    assumptions: tuple[str, ...]


# What each stack divides where a row does not say; with one data-parallel rank it makes no
# difference. Megatron: its recipes use the distributed optimizer; FSDP's kin exist to divide all.
_USUAL_SHARDING = {
    "megatron": "zero1",
    "megatron-deepspeed": "zero1",
    "fsdp": "zero3",
    "fsdp2": "zero3",
    "torchtitan": "zero3",
    "deepspeed": "zero2",
    "ddp": "none",
    "litgpt": "none",
    "litgpt-2023": "none",
    "litgpt-fsdp": "zero3",
}
# Containers whose Transformer Engine still chose FlashAttention 2 on Hopper.
_BEFORE_CUDNN = ("24.01", "24.03", "24.05", "24.07")
# Containers whose Transformer Engine has no fused attention on Blackwell for heads wider than 128
# (NVIDIA/TransformerEngine, pull request 1797 of June 2025 brought it), while FlashAttention 2
# wants keys as wide as values: latent attention is written out.
_BEFORE_WIDE_HEADS = ("25.02", "25.04")
_FUSED_WIDTH = 128
_BLACKWELL = 10
# What a run does not say of recomputation is the lightest that fits.
LIGHTEST_FIRST = ("none", "selective", "full")
# The projections that a table's word means, by what families call them: the first that the model
# has. A fused projection stands for its parts.
_FUSED = ("qkv_proj", "query_key_value", "c_attn", "Wqkv", "W_pack")
_TARGETS: Mapping[str, tuple[str, ...]] = {
    "q": ("q_proj", *_FUSED),
    "query": ("q_proj", *_FUSED),
    "k": ("k_proj", *_FUSED),
    "key": ("k_proj", *_FUSED),
    "v": ("v_proj", *_FUSED),
    "value": ("v_proj", *_FUSED),
    "projection": ("o_proj", "out_proj", "dense", "c_proj"),
}
_QKV = ("q_proj", "k_proj", "v_proj")
# Tables of weights in 4 bits by other means than bitsandbytes; their adapters are on all linears.
_ALL_LINEAR = ("all linear", "all-linear", "GPTQ int4")


def nouns_of(run: Run) -> Iterator[Nouns]:
    """The ways in which a row may have run, likeliest first; one where it says its recompute."""
    for filled, notes in layouts(run):
        yield from _with_recompute(filled, list(notes))


def _with_recompute(run: Run, notes: list[str]) -> Iterator[Nouns]:
    model, gpu = _model(run), _gpu(run)
    gpus = _gpus(run, notes)
    policies = _policies(run)
    for policy in policies:
        own = list(notes)
        if run.recompute is None and len(policies) == 1:
            own.append(f"recompute {policy}: what fine-tuning under {run.stack} does")
        elif run.recompute is None:
            own.append(f"recompute {policy}: the lightest that fits")
        try:
            plan = resolve(_request(run, model, policy, own), model, gpus)
            plan = replace(plan, layout=replace(plan.layout, execution=_execution(run)))
            plan = replace(plan, recipe=replace(plan.recipe, gradients=_gradients(run)))
            cluster = cluster_of(
                gpu,
                gpus,
                gpus_per_node=run.gpus_per_node,
                node_network_bytes_per_second=_node_network(run, own),
            )
        except PlannerError as error:
            raise UnusableError(error.message) from None
        yield Nouns(model, plan, cluster, (*own, *plan.assumptions, *cluster.assumptions))


def _policies(run: Run) -> tuple[str, ...]:
    """Recompute as the row says; fine-tuning scripts with FSDP checkpoint every layer.

    What fms-fsdp calls selective is a share of the layers, each recomputed whole; the row does not
    say which share (foundation-model-stack/fms-fsdp, policies/ac_handler.py).
    """
    if run.recompute == "selective" and "fms-fsdp" in (run.source or ""):
        layers = _model(run).config.get("num_hidden_layers")
        if isinstance(layers, int):  # every third, every second, two of three layers, or all
            return tuple(f"full:{layers * part // 6}" for part in (2, 3, 4, 6))
    if run.recompute is not None:
        return (run.recompute,)
    if run.finetune in ("lora", "qlora", "full") and run.stack in ("fsdp", "fsdp2"):
        return ("full",)
    return LIGHTEST_FIRST


def _model(run: Run) -> ModelSpec:
    name = str(run.model_path) if run.model_path.exists() else run.model
    try:
        return _load_model(name)
    except PlannerError as error:
        raise UnusableError(f"model {run.model}: {error.message}") from None


@lru_cache(maxsize=512)
def _load_model(name: str) -> ModelSpec:
    return load_model(name)


def _gpu(run: Run) -> GpuProfile:
    try:
        return _find_gpu(run.gpu)
    except PlannerError as error:
        raise UnusableError(error.message) from None


@lru_cache(maxsize=512)
def _find_gpu(name: str) -> GpuProfile:
    return find_gpu(name)


def _gpus(run: Run, notes: list[str]) -> int:
    sizes = (run.tensor_parallel, run.pipeline_parallel, run.context_parallel)
    share = 1
    for size in sizes:
        share *= size or 1
    if run.gpus is not None:
        if run.data_parallel is not None and run.data_parallel * share != run.gpus:
            raise UnusableError(
                f"gpus {run.gpus}, but data x tensor x pipeline x context parallel make "
                f"{run.data_parallel * share}"
            )
        return run.gpus
    if run.data_parallel is None:
        raise UnusableError("neither gpus nor data_parallel is known")
    notes.append(f"gpus {run.data_parallel * share}: the product of the parallel sizes")
    return run.data_parallel * share


def _node_network(run: Run, notes: list[str]) -> float | None:
    """Of all adapters of a node [bytes/s], where the row or its source tells; None: the usual."""
    told = _NODE_NETWORK.search(run.notes or "")
    if told is not None:
        return float(told[1]) * _BYTES_PER_GIGABIT
    if "bigscience" in (run.source or "") and run.gpu.startswith("a100"):
        notes.append(f"node network {_JEAN_ZAY_A100_GIGABITS} Gb/s: Jean Zay's A100 nodes")
        return _JEAN_ZAY_A100_GIGABITS * _BYTES_PER_GIGABIT
    return None


def _request(run: Run, model: ModelSpec, recompute: str, notes: list[str]) -> Request:
    if run.sequence_length is None:
        raise UnusableError("sequence_length is not known")
    stack = _stack(run, notes)
    sharding = run.sharding
    if sharding is None and stack is not None:
        sharding = _USUAL_SHARDING.get(stack)
        if sharding is not None:
            notes.append(f"sharding {sharding}: the usual one of {stack}")
    finetune = run.finetune or "full"
    if finetune != "full" and "embedding and head trained" in (run.notes or ""):
        raise UnusableError("embedding and head are trained beside the adapters: not modelled")
    loss = _cross_entropy(run, notes)
    adapted = finetune in ("lora", "qlora")
    optimizer, offload = _optimizer(run, stack, notes)
    return Request(
        gpus=run.gpus,
        gpus_per_node=run.gpus_per_node,
        sequence_length=run.sequence_length,
        micro_batch_size=_micro_batch_size(run, notes),
        global_batch_size=run.global_batch_size,
        gradient_accumulation=run.gradient_accumulation_steps,
        precision=run.precision,
        optimizer=optimizer,
        tensor_parallel=run.tensor_parallel or 1,
        pipeline_parallel=run.pipeline_parallel or 1,
        virtual_pipeline=run.virtual_pipeline or 1,
        context_parallel=run.context_parallel or 1,
        expert_parallel=run.expert_parallel or 1,
        expert_tensor_parallel=run.expert_tensor_parallel,
        sequence_parallel=run.sequence_parallel,
        sharding=sharding,
        recompute=recompute,
        attention=_attention(run, model, notes),
        cross_entropy=loss,
        compile=bool(run.compile),
        stack=stack,
        finetune=finetune,
        lora_rank=run.lora_rank if adapted else None,
        lora_targets=_targets(run, model, notes) if adapted else None,
        quantize="nf4-plain" if finetune == "qlora" and _plain_nf4(run) else None,
        offload=offload,
        tokens=run.tokens,
    )


def _optimizer(run: Run, stack: str | None, notes: list[str]) -> tuple[str | None, tuple[str, ...]]:
    """Optimizer and offload as told; where torchtune's recipe has to say it, that for one GPU has a
    paged optimizer, which steps in the backward pass."""
    offload = _offload(run)
    by_recipe = "optimizer) from the matching recipe" in (run.notes or "")
    if stack == "torchtune" and by_recipe and run.gpus == 1 and run.finetune == "full":
        notes.append("optimizer adamw-8bit, offload optimizer: the recipe's PagedAdamW8bit")
        return "adamw-8bit", ("optimizer",)
    return run.optimizer, offload


def _offload(run: Run) -> tuple[str, ...]:
    """What goes to the host; the notes say of how many layers, where not of all."""
    words = [word.strip() for word in (run.offload or "").split(",") if word.strip()]
    layers = _LAYERS_OFFLOADED.search(run.notes or "")
    if layers is None:
        return tuple(words)
    return tuple(f"{w}:{layers[1]}" if w == "activations" else w for w in words)


def _execution(run: Run) -> Execution:
    """Graphs, dispatcher and overlap as the source's own recipe has them."""
    words = tuple(w.strip() for w in (run.overlap or "").split(",") if w.strip())
    if "asynchronous tensor parallel" in (run.notes or ""):
        words = (*words, "dp", "tp")
    if "no overlap passes" in (run.notes or ""):
        words = ("none",)
    kernel = None
    if "Triton flash attention" in (run.notes or ""):
        kernel = "triton"
    elif run.stack == "megatron" and (run.software or "").startswith(_BEFORE_CUDNN):
        kernel = "flash_attention_2"
    return Execution(
        attention_kernel=kernel,
        cuda_graph=run.cuda_graph or "none",
        dispatcher=run.moe_dispatcher,
        overlap=words or None,
    )


def _stack(run: Run, notes: list[str]) -> str | None:
    """Megatron's model under DeepSpeed's ZeRO, and LitGPT, are stacks that no column names."""
    told = f"{run.source} {run.notes}"
    deepspeed = "Megatron-DeepSpeed" in told or "bigscience" in told
    if run.stack == "megatron" and run.sharding in ("none", "zero1") and deepspeed:
        notes.append("stack megatron-deepspeed: the notes or the source say so")
        return "megatron-deepspeed"
    if "InternEvo" in told and run.stack == "deepspeed":
        notes.append("stack internevo: the source is InternEvo's own table")
        return "internevo"
    if "torchtune" in told:
        notes.append("stack torchtune: the source is torchtune's own table")
        return "torchtune"
    if "fsdp_qlora" in told:
        notes.append("stack fsdp-2024: fsdp_qlora's FSDP around Transformers of March 2024")
        return "fsdp-2024"
    if run.stack == "ddp" and "litgpt" in told.lower() and run.precision == "bf16-pure":
        name = "litgpt-2023" if "Oct 2023" in told else "litgpt"
        notes.append(f"stack {name}: the source is LitGPT's own table")
        return name
    if run.stack == "fsdp" and "litgpt" in told.lower():
        notes.append("stack litgpt-fsdp: the source is LitGPT's own table")
        return "litgpt-fsdp"
    return run.stack


def _gradients(run: Run) -> str | None:
    """What Megatron's grad_reduce_in_fp32=False does, where the recipe was found."""
    return "bf16" if "bf16 gradient reduction" in (run.kernels or "") else None


def _attention(run: Run, model: ModelSpec, notes: list[str]) -> str | None:
    """As told, but where the container had no fused kernel for the model's heads."""
    if run.attention is None:
        notes.append("attention flash: the row does not say")
    capability = _gpu(run).compute_capability or "0"
    if (run.software or "").startswith(_BEFORE_WIDE_HEADS) and float(capability) >= _BLACKWELL:
        cores = [op for place in model.layers for op in place.block.operations]
        if any(op.number("head_dim") > _FUSED_WIDTH for op in cores if op.kind == "attention"):
            notes.append("attention eager: the container has no fused one for such heads")
            return "eager"
    return run.attention


def _cross_entropy(run: Run, notes: list[str]) -> str | None:
    """As told; None: the stack's own. Liger's fused kernel is the chunked kind; Megatron's own
    fusion keeps float32 probabilities, Transformer Engine's, which Megatron-Bridge's recipes take,
    the logits alone."""
    if run.cross_entropy == "fused" and "liger" in f"{run.kernels} {run.software}".lower():
        notes.append("cross_entropy chunked: Liger's, fused with the head's product")
        return "chunked"
    if run.cross_entropy == "fused" and run.stack == "megatron" and run.group != "bridge":
        notes.append("cross_entropy standard: Megatron's own fusion keeps float32 probabilities")
        return "standard"
    if run.cross_entropy is None:
        notes.append("cross_entropy: the stack's own, the row does not say")
    return run.cross_entropy


def _plain_nf4(run: Run) -> bool:
    """LitGPT's tables say bnb.nf4, or bnb.nf4-dq with double quantisation."""
    return run.group == "litgpt" and "nf4-dq" not in (run.notes or "")


def _micro_batch_size(run: Run, notes: list[str]) -> int | None:
    """As told, or what the global batch and the passes leave for one."""
    batch, passes, ranks = (
        run.global_batch_size,
        run.gradient_accumulation_steps,
        run.data_parallel,
    )
    if run.micro_batch_size is not None or not (batch and passes and ranks):
        return run.micro_batch_size
    size, rest = divmod(batch, passes * ranks)
    if rest:
        return None
    notes.append(f"micro_batch_size {size}: from the global batch, the passes and the ranks")
    return size


def _targets(run: Run, model: ModelSpec, notes: list[str]) -> tuple[str, ...]:
    """The model's linears that a row's words name."""
    if run.lora_targets is None:
        notes.append("lora_targets all linears: what fine-tuning scripts usually adapt")
    linears = [
        (op.name.rsplit(".", 1)[-1], op.group)
        for place in model.layers
        for op in place.block.operations
        if op.kind == "linear"
    ]
    names = list(dict.fromkeys(name for name, _ in linears))
    found: list[str] = []
    for word in (part.strip() for part in (run.lora_targets or "all linear").split(",")):
        if word in _ALL_LINEAR:
            found += names
        elif word == "linear_qkv":
            found += [name for name in names if name in (*_QKV, *_FUSED)]
        elif word in ("mlp", "feed_forward"):
            found += [name for name, group in linears if group != "attention"]
        elif word in _TARGETS:
            found += [name for name in _TARGETS[word] if name in names][:1]
        elif word in names:
            found.append(word)
        elif word != "head":
            raise UnusableError(f"lora_targets {word!r}: the linears of {model.name} are {names}")
    return tuple(dict.fromkeys(found))
