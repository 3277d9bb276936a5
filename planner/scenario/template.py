"""The scenario file that `planner scenario new` begins with: complete, and explained."""

from __future__ import annotations

import json

_TEXT = """\
# A training scenario. `planner scenario check FILE` checks it, `planner estimate FILE` answers it.
# What is commented out may be left out; the value shown is then not assumed, but explained.
name: {name}

# A catalog id (planner models list), a config.json or its folder (relative to this file), or the
# fields themselves: {{num_hidden_layers: 32, hidden_size: 4096, ...}}
model: {model}

recipe:
  tokens: 1.0e12 # of the whole run; or steps: 250000
  sequence_length: 8192
  global_batch_size: 512 # sequences per optimizer step
  precision: bf16-mixed # bf16-autocast, bf16-pure, fp16-mixed, fp8-mixed, fp32 ...
  optimizer: adamw # adamw-8bit, sgd, sgd-momentum, adafactor, lion, muon
  # attention: flash # or eager
  # cross_entropy: standard # or fused, chunked
  # compile: true
  # evaluation_every_steps: 1000 # training waits for it; left out, there is none
  # evaluation_steps: 50 # batches of an evaluation
  # checkpoint_every_steps: 1000 # training waits for it; left out, there is none
  # storage_bandwidth: 20 GB/s # of all GPUs together
  # finetune: {{method: lora, rank: 16, targets: [q_proj, v_proj]}} # or qlora

hardware:
  gpu: {gpu} # planner hardware list; a YAML profile; live: the GPUs of this machine
  gpus: {gpus} # or several to compare: [32, 64]; left out, the fewest that fit are found
  # node: dgx-h100 # a node type, for its links, network and price (hardware list --nodes)
  # gpus_per_node: 8
  # reserve: 2GiB # memory of each GPU to keep free

# auto, or a mapping. What a mapping leaves out takes its plain default, or the fewest changes of
# it (sharding, recompute, tensor_parallel) after which training fits.
layout: auto
# layout:
#   tensor_parallel: 8
#   pipeline_parallel: 1 # above 1, pipeline_schedule: gpipe, 1f1b, zero-bubble or dualpipe
#   context_parallel: 1
#   expert_parallel: 1
#   sharding: zero3 # none, zero1, zero2, zero3, hsdp
#   recompute: selective # none, selective, full
#   micro_batch_size: 1 # sequences per GPU and pass
#   offload: [] # to the host: optimizer, parameters, activations, activations:8 of the layers
#   cuda_graph: none # local (layer by layer), full, te:attn+moe_router
#   overlap: [dp, tp] # traffic beside compute: dp, dp-reduce, tp, pp, ep; else the stack's own

stack: fsdp2 # megatron, torchtitan, fsdp2, fsdp, deepspeed, ddp

budget:
  # usd_per_gpu_hour: 2.50 # else the profile's price, with its source and date
  deadline_days: 60 # a warning if it takes longer
  max_cost_usd: 500000 # a warning if it costs more
  # region: us-east # of the grid: energy and carbon are not estimated, a warning says so
"""


def template(
    *,
    name: str = "my run",
    model: str = "llama-3.1-8b",
    gpu: str = "h100-sxm-80gb",
    gpus: int = 32,
) -> str:
    """The text of a new scenario file."""
    return _TEXT.format(name=_text(name), model=_text(model), gpu=_text(gpu), gpus=gpus)


def _text(value: str) -> str:
    """Quoted, unless it is plain in YAML whatever its place: JSON's quotes are YAML's."""
    plain = value.replace("-", "").replace(".", "").replace(" ", "").replace("/", "")
    simple = plain.isalnum() and value[0].isalpha() and value == value.strip()
    return value if simple and value.lower() not in _WORDS else json.dumps(value)


_WORDS = ("true", "false", "null", "yes", "no", "on", "off")
