"""Write traced sharded training steps, drawn from a seed, as sharded memory cases.

    python tools/sharded_cases.py -o CASES.json [--seed 1] [KIND ...]

Kinds: fsdp2 (Transformers' code), torchtitan, tensor (torchtitan under tensor parallelism), single
(one GPU), ddp, lora, qlora. Shapes are those of published models or near them, with fewer layers.
Needs torch, transformers and peft.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers
from memory_cases import shape

from planner.validation.traced import case_of
from planner.validation.tracing.result import record_of
from planner.validation.tracing.step import StepTrace

Record = dict[str, Any]

DEFAULTS = {
    "code": "transformers",
    "world": 1,
    "tensor_parallel": 1,
    "stack": "ddp",
    "sharding": "none",
    "gradient_as_bucket_view": False,
    "precision": "bf16-pure",
    "optimizer": "adamw",
    "implementation": "foreach",
    "attention": "flash",
    "checkpointing": False,
    "gradient_accumulation": 1,
    "finetune": None,
}

# Model type -> shapes; a field that is left out is the family's default.
SHAPES: dict[str, list[Record]] = {
    "llama": [
        shape(4096, 14336, 32, 8, 128256),
        shape(2048, 8192, 32, 8, 128256, tie_word_embeddings=True, head_dim=64),
        shape(8192, 28672, 64, 8, 128256),
        shape(4096, 11008, 32, 32, 32000),
    ],
    "mistral": [
        shape(4096, 14336, 32, 8, 32768),
        shape(5120, 14336, 32, 8, 131072, head_dim=128),
    ],
    "qwen2": [
        shape(3584, 18944, 28, 4, 152064),
        shape(1536, 8960, 12, 2, 151936, tie_word_embeddings=True),
    ],
    "qwen3": [
        shape(4096, 12288, 32, 8, 151936, head_dim=128),
        shape(1024, 3072, 16, 8, 151936, tie_word_embeddings=True, head_dim=128),
    ],
    "gemma2": [shape(2304, 9216, 8, 4, 256000), shape(3584, 14336, 16, 8, 256000)],
    "gemma3_text": [shape(1152, 6912, 4, 1, 262144), shape(2560, 10240, 8, 4, 262208)],
    "olmo2": [shape(4096, 11008, 32, 32, 100352), shape(2048, 8192, 16, 16, 100352)],
    "granite": [shape(4096, 12800, 32, 8, 49155, tie_word_embeddings=True)],
    "phi3": [shape(3072, 8192, 32, 32, 32064), shape(5120, 17920, 40, 10, 100352)],
    "starcoder2": [shape(3072, 12288, 24, 2, 49152)],
    "cohere": [shape(4096, 14336, 32, 8, 256000)],
    "mixtral": [shape(4096, 14336, 32, 8, 32000, num_local_experts=8)],
    "qwen3_moe": [
        shape(
            2048,
            6144,
            32,
            4,
            151936,
            num_experts=128,
            num_experts_per_tok=8,
            moe_intermediate_size=768,
            head_dim=128,
        )
    ],
    "gpt2": [{"n_embd": 1600, "n_head": 25}, {"n_embd": 1024, "n_head": 16}],
}
EXPERTS = ("mixtral", "qwen3_moe")
# Where the loss dominates, families differ little: the less common ones are drawn as often.
FAMILIES = {
    "fsdp2": [*SHAPES, "llama", "qwen2", "qwen3"],
    "torchtitan": ["llama"],
    "tensor": ["llama"],
    "single": [name for name in SHAPES if name not in EXPERTS],
    "ddp": ["llama", "qwen3", "gpt2", "mistral", "gemma2"],
    "lora": ["llama", "mistral", "qwen2", "qwen3", "gemma2", "phi3", "granite"],
    "qlora": ["llama", "qwen2", "mistral"],
}
COUNTS = {
    "fsdp2": 24,
    "torchtitan": 6,
    "tensor": 8,
    "single": 10,
    "ddp": 5,
    "lora": 9,
    "qlora": 4,
}
ALL_LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def layout(source: random.Random, kind: str) -> Record:
    """GPUs, sharding and precision of a kind."""
    if kind in ("fsdp2", "torchtitan", "tensor"):
        return {
            "stack": "fsdp2",
            "code": "transformers" if kind == "fsdp2" else "torchtitan",
            "world": source.choice((8, 16, 32, 64, 256)),
            "tensor_parallel": source.choice((2, 4, 8)) if kind == "tensor" else 1,
            "sharding": source.choice(("zero3", "zero3", "zero3", "zero2")),
            "precision": source.choice(("bf16-mixed", "bf16-mixed", "bf16-mixed", "bf16-pure")),
        }
    if kind == "ddp":
        return {
            "world": source.choice((2, 8, 64)),
            "precision": source.choice(("bf16-autocast", "bf16-autocast", "bf16-pure")),
            "gradient_as_bucket_view": source.choice((True, False)),
        }
    if kind == "single":
        return {"precision": source.choice(("bf16-autocast", "bf16-autocast", "bf16-pure", "fp32"))}
    precision = source.choice(("bf16-autocast", "bf16-autocast", "bf16-mixed", "bf16-pure"))
    return {"precision": "bf16-autocast" if kind == "qlora" else precision}


def draw(source: random.Random, kind: str, number: int) -> Record:
    """One case of a kind."""
    family = FAMILIES[kind][number % len(FAMILIES[kind])]
    options = [s for s in SHAPES[family] if kind != "torchtitan" or "tie_word_embeddings" not in s]
    config = {"model_type": family} | source.choice(options)
    if kind in ("torchtitan", "tensor"):
        config |= {"tie_word_embeddings": False, "head_dim": 128, "num_key_value_heads": 8}
        config["num_attention_heads"] = config["hidden_size"] // 128
    layers = source.choice((2, 3)) if family in EXPERTS else source.choice((4, 6, 8, 12))
    longest = 1024 if family == "gpt2" else 8192
    seq = source.choice([s for s in (512, 1024, 2048, 4096, 8192) if s <= longest])
    batch = source.choice([b for b in (1, 2, 4, 8) if b * seq <= 16384])
    finetune = None
    if kind in ("lora", "qlora"):
        targets = ["q_proj", "v_proj"] if source.random() < 0.4 else ALL_LINEARS
        if family == "phi3":
            targets = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
        finetune = {"method": kind, "rank": source.choice((8, 16, 64)), "targets": targets}
        finetune |= {"quantize": "nf4"} if kind == "qlora" else {}
    optimizer = source.choice(("adamw", "adamw", "adamw", "adamw", "sgd", "sgd-momentum"))
    drawn = {
        "model": family,
        "config": config,
        "layers": layers,
        "seq": seq,
        "batch": batch,
        "optimizer": optimizer,
        # PyTorch's fused SGD does not know sharded parameters
        "implementation": source.choice(("foreach", "fused"))
        if optimizer == "adamw"
        else "foreach",
        "checkpointing": source.random() < 0.45,
        "gradient_accumulation": source.choice((1, 1, 1, 2)),
        "finetune": finetune,
        **layout(source, kind),
    }
    if family in EXPERTS and drawn["precision"] not in ("bf16-mixed", "bf16-pure"):
        drawn["precision"] = "bf16-mixed"
    return DEFAULTS | drawn


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("kinds", nargs="*", help=f"of {list(COUNTS)}; default: all")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    lines = []
    for kind in arguments.kinds or COUNTS:
        source = random.Random(f"{arguments.seed} {kind}")
        for number in range(COUNTS[kind]):
            record = {"id": f"seed{arguments.seed}-{kind}-{number + 1}"}
            record |= draw(source, kind, number)
            config = record["config"]
            key = "n_layer" if config["model_type"] == "gpt2" else "num_hidden_layers"
            record["config"] = config | {key: record["layers"]}
            try:
                record["result"] = record_of(StepTrace(case_of(record)))
            except (RuntimeError, ValueError, TypeError, AttributeError, KeyError) as error:
                print(record["id"], "left out:", str(error).splitlines()[0], flush=True)
                continue
            lines.append(json.dumps(record))
            print(record["id"], record["model"], record["result"]["peak"]["Total"], flush=True)
            Path(arguments.output).write_text("[\n" + ",\n".join(lines) + "\n]\n")
    print(f"{len(lines)} cases, torch {torch.__version__}, transformers {transformers.__version__}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
