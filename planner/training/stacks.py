"""Training stacks as data: what each keeps, gathers, reduces, and which kernels it runs.

Most published disagreement about "how much memory does training take" is disagreement about this.
A new stack, or a new version of one, is a row here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from planner.errors import unknown
from planner.numeric import Code
from planner.training.layout import Sharding
from planner.units import BYTES_PER_KIB, BYTES_PER_MIB


@dataclass(frozen=True)
class HostTime:
    """What Python, the dispatcher and autograd take on a DGX H100 [s]: to start a kernel of the
    tape, and of a pass and a step beside their kernels."""

    per_kernel: float
    per_pass: float = 0.0
    per_step: float = 0.0


# 5 to 10 us a kernel on current servers (assumed).
EAGER_HOST = HostTime(8e-6)
# Megatron's modules start several kernels for one step of the tape (bias, dropout, casts, views).
# Fitted by tools/fit_host.py on 98 steps of Megatron-Core that wait for the host, on A100, H100 and
# GB200: 6 % median error.
MEGATRON_HOST = HostTime(132e-6, 3.4e-3, 1.9e-3)
# Megatron-LM of 2022 has modules of torch alone. No measured run with it waits for its host: set on
# vTrain's single layers, profiled on an A100 node (1.46 times the H100's time) with every launch
# traced (docs/decisions/0022).
MEGATRON_2022_HOST = HostTime(48e-6, 2.7e-3, 1.4e-3)


# torch's caching allocator: reserved over allocated at the peak. SimuMax (B200, Megatron-Core), 20
# runs that report both: 1.028 to 1.071, mean 1.046. Used where nobody reports both.
# Spreads: the least half width that holds four of five of a stack's own measured rows (grade a and
# b; docs/accuracy.md has what each holds); where that is above a tenth, because something is not
# explained, 0.06 to 0.08, which hold fewer.
ALLOCATOR_SLACK = 0.046
SLACK_SPREAD = 0.027
# torchtitan, reserved over what is predicted, less the stranded logits: its own H100 runs 1.09 to
# 1.16, torchao's B200 runs 1.12 to 1.14, so that leaving either out changes it by 0.01 at most
# (docs/accuracy.md has the table).
TORCHTITAN_SLACK = 0.125
# Megatron-DeepSpeed by nvidia-smi (A100 and V100, 2021 and 2022), over what is predicted:
# bigscience's prequel 1.2 to 1.4 (fitted on it; bs104b, not used, is at 1.5 to 1.7).
MEGATRON_DEEPSPEED_SLACK = 0.30
# DeepSpeed with long sequences on H200 (mleng, Liger's kernels), reserved over what is predicted:
# 1.06 to 1.16 (fitted on it; qwen's and internevo's runs, by tools not named, are at 1.3 and 1.5).
DEEPSPEED_SLACK = 0.15
# FSDP version 1 around Transformers, reserved over allocated: 10.24 over 8.28 GiB at 512 tokens and
# 10.22 over 9.16 at 2,048 (AnswerDotAI/fsdp_qlora, benchmarks_03_2024.md, Llama 2 7B with LoRA).
FSDP_2024_SLACK = 0.18


# AdamW before PyTorch 2.1 adds eps to sqrt(v) in a new tensor, not in place (torch 2.0.1,
# optim/adamw.py: exp_avg_sq_sqrt and denom).
TORCH_2_0_STEP_COPIES = 2


@dataclass(frozen=True)
class Stack:
    """One way to run a training step.

    kernels            whose code the model is: "transformers", "torchtitan", "megatron", "own" (the
                       training code's)
    shardings          what it can divide
    gathers_units      parameters can be gathered unit by unit (embedding, each layer, head)
    gathers_from       ... and are, from this sharding on; below it every rank holds them whole
    loss_in_model      the loss is computed inside the root module's forward pass, so that the
                       last all-gather's output is still held (FSDP2)
    compiles_loss      `compile` takes the loss along with the layers
    root_unit          embedding, final norm and head are one unit, gathered until the last use
    prefetched_units   units gathered ahead while one computes
    main_gradients     gradients live in one contiguous buffer from the start to the end
    reduce_bucket_bytes, gather_bucket_bytes   fixed communication buffers
    fused_optimizer    the step needs no parameter-sized temporary
    step_copies        how often it writes each temporary of the optimizer out
    own_attention      its model code has fused attention for every family, also where Transformers
                       has only the written-out one (llm-foundry's MPT)
    flat_gradients     a unit is one flat parameter, its gradient as large as its frozen weights
    host_steps         with the parameters in host memory, gradients and states are there too, and
                       the optimizer runs on the CPU
    keeps_stage_outputs  a pipeline stage keeps its output of each micro-batch in flight
    allocator_slack    memory that torch's allocator has reserved beside what is allocated at the
                       peak, over it; slack_spread: half the width of what is measured of it
    stranded_logits    share of the logits at the peak whose freed block nothing later fits in
    selective          the modules that its selective recompute computes again (memory.recompute)
    vocabulary_multiple  the vocabulary is padded to a multiple of this x tensor_parallel
    experts_follow_tensor_parallel  experts are split by tensor parallelism unless told otherwise
    overlaps_data_parallel  gathers and reductions run beside compute unless told otherwise
    asynchronous_linears  tensor-parallel exchanges of the backward pass run beside products
    scatters_stage_outputs  tensor-parallel ranks send a share each of a stage's output, and gather
                       it where it arrives
    dispatches_experts  who moves tokens to experts can be chosen
    casts_in_norms     a norm writes its output in the format of the product that reads it
    attention_kernel   "flash_attention_2" (also torch's scaled_dot_product_attention), or "best":
                       cuDNN's or Transformer Engine's choice for the GPU
    host               the host's time
    """

    name: str
    kernels: str
    shardings: tuple[Sharding, ...]
    gathers_units: bool = False
    gathers_from: Sharding = Sharding.zero2
    loss_in_model: bool = True
    compiles_loss: bool = False
    root_unit: bool = False
    prefetched_units: int = 1
    main_gradients: bool = False
    buckets_double_gradients: bool = False
    reduce_bucket_bytes: float = 0.0
    gather_bucket_bytes: float = 0.0
    fused_optimizer: bool = False
    step_copies: int = 1
    tensor_parallel: bool = False
    pipeline: bool = False
    sequence_parallel: bool = False
    own_attention: bool = False
    flat_gradients: bool = False
    host_steps: bool = False
    keeps_stage_outputs: bool = False
    allocator_slack: float = ALLOCATOR_SLACK
    slack_spread: float = SLACK_SPREAD
    stranded_logits: float = 0.0
    selective: tuple[str, ...] = ("core_attn",)
    vocabulary_multiple: int = 1
    experts_follow_tensor_parallel: bool = False
    overlaps_data_parallel: bool = True
    asynchronous_linears: bool = False
    scatters_stage_outputs: bool = False
    dispatches_experts: bool = False
    casts_in_norms: bool = False
    attention_kernel: str = "flash_attention_2"
    host: HostTime = EAGER_HOST
    source: str = ""

    def steps_on_host(self, offload: tuple[str, ...]) -> bool:
        """Whether the optimizer runs on the CPUs, for what is offloaded."""
        return "optimizer" in offload or (self.host_steps and "parameters" in offload)

    def gathers(self, sharding: Code) -> bool:
        """Whether parameters are divided among the ranks, and gathered unit by unit."""
        return self.gathers_units and bool(sharding >= self.gathers_from)


# DeepSpeed, runtime/zero/config.py: reduce_bucket_size and allgather_bucket_size of 5e8 elements,
# in bf16; ZeRO-1 and 2 hold both during the step.
_DEEPSPEED_BUCKET_BYTES = 5e8 * 2

STACKS = {
    row.name: row
    for row in (
        Stack(
            "ddp",
            "transformers",
            (Sharding.none,),
            buckets_double_gradients=True,
            source="torch.nn.parallel.DistributedDataParallel, gradient_as_bucket_view=False",
        ),
        Stack(
            "fsdp2",
            "transformers",
            (Sharding.none, Sharding.zero2, Sharding.zero3, Sharding.hsdp),
            gathers_units=True,
            tensor_parallel=True,
            sequence_parallel=True,
            host_steps=True,
            source="torch.distributed.fsdp.fully_shard, PyTorch 2.13; traced",
        ),
        Stack(
            "torchtitan",
            "torchtitan",
            (Sharding.none, Sharding.zero2, Sharding.zero3, Sharding.hsdp),
            gathers_units=True,
            compiles_loss=True,
            loss_in_model=False,
            host_steps=True,
            tensor_parallel=True,
            pipeline=True,
            sequence_parallel=True,
            selective=("every_second_product",),
            allocator_slack=TORCHTITAN_SLACK,
            slack_spread=0.04,
            # `del pred`: 2 of the 12 bytes a logit of the eager loss
            stranded_logits=1 / 6,
            source="torchtitan on fully_shard and DTensor, PyTorch 2.13; traced",
        ),
        Stack(
            "fsdp",
            "own",
            (Sharding.none, Sharding.zero2, Sharding.zero3, Sharding.hsdp),
            gathers_units=True,
            root_unit=True,
            prefetched_units=2,
            own_attention=True,
            host_steps=True,
            source="torch.distributed.fsdp.FullyShardedDataParallel (flat parameters)",
        ),
        Stack(
            "deepspeed",
            "transformers",
            (Sharding.none, Sharding.zero1, Sharding.zero2, Sharding.zero3),
            gathers_units=True,
            gathers_from=Sharding.zero3,
            reduce_bucket_bytes=_DEEPSPEED_BUCKET_BYTES,
            gather_bucket_bytes=_DEEPSPEED_BUCKET_BYTES,
            fused_optimizer=True,
            tensor_parallel=True,
            pipeline=True,
            allocator_slack=DEEPSPEED_SLACK,
            slack_spread=0.06,
            source="DeepSpeed ZeRO, runtime/zero/config.py defaults",
        ),
        Stack(
            "megatron",
            "megatron",
            tuple(Sharding),
            gathers_units=True,
            gathers_from=Sharding.zero3,
            main_gradients=True,
            fused_optimizer=True,
            tensor_parallel=True,
            pipeline=True,
            sequence_parallel=True,
            vocabulary_multiple=128,
            experts_follow_tensor_parallel=True,
            # overlap_grad_reduce and overlap_param_gather are False by default
            overlaps_data_parallel=False,
            # core/tensor_parallel/layers.py; Transformer Engine, pytorch/module/layernorm_linear.py
            asynchronous_linears=True,
            dispatches_experts=True,
            casts_in_norms=True,
            attention_kernel="best",
            host=MEGATRON_HOST,
            source="Megatron-Core with Transformer Engine; distributed optimizer = zero1, "
            "Megatron-FSDP = zero3",
        ),
    )
}
STACKS["litgpt"] = replace(
    STACKS["ddp"],
    name="litgpt",
    kernels="litgpt",
    own_attention=True,
    slack_spread=0.071,
    source="LitGPT on one GPU, bf16-true (Lightning-AI/litgpt)",
)
STACKS["litgpt-fsdp"] = replace(
    STACKS["fsdp"],
    name="litgpt-fsdp",
    kernels="litgpt",
    flat_gradients=True,
    slack_spread=0.015,
    source="LitGPT with Lightning Fabric's FSDPStrategy (FSDP version 1)",
)
STACKS["litgpt-2023"] = replace(
    STACKS["litgpt"], name="litgpt-2023", kernels="litgpt-2023", slack_spread=0.062
)
STACKS["megatron-deepspeed"] = replace(
    STACKS["megatron"],
    name="megatron-deepspeed",
    shardings=(Sharding.none, Sharding.zero1),
    host=MEGATRON_2022_HOST,
    keeps_stage_outputs=True,
    # DeepSpeed, runtime/pipe/engine.py: is_pipe_partitioned, is_grad_partitioned
    scatters_stage_outputs=True,
    # microsoft/Megatron-DeepSpeed, megatron/mpu/layers.py and mappings.py before 2023: the backward
    # pass of copy_to_tensor_model_parallel_region waits for its all-reduce
    asynchronous_linears=False,
    allocator_slack=MEGATRON_DEEPSPEED_SLACK,
    slack_spread=0.1,
    source="Megatron-DeepSpeed with DeepSpeed's pipeline, as bigscience trained BLOOM in 2022",
)

STACKS["fsdp-2024"] = replace(
    STACKS["fsdp"],
    name="fsdp-2024",
    kernels="transformers-2024",
    own_attention=False,
    allocator_slack=FSDP_2024_SLACK,
    slack_spread=0.06,
    source="FSDP version 1 around Transformers before release 4.46",
)
STACKS["torchtune"] = replace(
    STACKS["fsdp2"],
    name="torchtune",
    kernels="torchtune",
    loss_in_model=False,
    fused_optimizer=True,
    tensor_parallel=False,
    sequence_parallel=False,
    slack_spread=0.08,
    source="torchtune on fully_shard; its recipes' AdamW is fused (pytorch/torchtune, recipes/)",
)
STACKS["internevo"] = replace(
    STACKS["fsdp"],
    name="internevo",
    shardings=(Sharding.none, Sharding.zero1, Sharding.zero3),
    gathers_from=Sharding.zero3,
    tensor_parallel=True,
    pipeline=True,
    sequence_parallel=True,
    step_copies=TORCH_2_0_STEP_COPIES,
    allocator_slack=DEEPSPEED_SLACK,
    slack_spread=0.06,
    source="InternEvo: FSDP or its hybrid ZeRO-1, each under torch's own AdamW until March 2024",
)

# cuBLAS keeps one workspace per handle and stream: 32 MiB on Hopper and later, 8.1 MiB before
# (PyTorch, aten/src/ATen/cuda/CUDABlas: 4096 KiB x 2 + 16 KiB x 8); two handles after a backward.
CUBLAS_WORKSPACE_HOPPER_BYTES = 32 * BYTES_PER_MIB
CUBLAS_WORKSPACE_BYTES = (4096 * 2 + 16 * 8) * BYTES_PER_KIB
CUBLAS_HANDLES = 2


def stack(name: str) -> Stack:
    if name not in STACKS:
        raise unknown("stack", name, STACKS)
    return STACKS[name]


def default_stack(sharding: Sharding, model_parallel: bool) -> str:
    """The stack that people use for such a layout, where none is named."""
    if model_parallel:
        return "megatron"
    if sharding == Sharding.none:
        return "ddp"
    return "deepspeed" if sharding == Sharding.zero1 else "fsdp2"
