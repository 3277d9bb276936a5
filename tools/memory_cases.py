"""Write traced training steps of many families, in the format of the planner's memory cases.

    python tools/memory_cases.py -o CASES.json [--seed 1] [--per-family 3] [FAMILY ...]

The shapes are those of published models or near them; layers, sequence, batch, attention,
recomputation, dtype and optimizer are drawn at random from the seed, so another seed gives cases
that nobody has fitted to. Each case also says which attention the model really ran
(`attention_ran`): families without an attention interface run eager code. Needs torch and
transformers.
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

from planner.validation.traced import case_of
from planner.validation.tracing.result import record_of
from planner.validation.tracing.step import StepTrace


def shape(
    hidden: int, ff: int, heads: int, kv: int | None, vocab: int, **more: Any
) -> dict[str, Any]:
    """The usual fields of a decoder."""
    fields = {
        "hidden_size": hidden,
        "intermediate_size": ff,
        "num_attention_heads": heads,
        "vocab_size": vocab,
    }
    return fields | ({"num_key_value_heads": kv} if kv else {}) | more


# Model type -> shapes to draw from; a field that is left out is the family's default.
SHAPES: dict[str, list[dict[str, Any]]] = {
    "llama": [
        shape(2048, 8192, 32, 8, 128256, tie_word_embeddings=True, head_dim=64),
        shape(3072, 8192, 24, 8, 128256, attention_bias=True),
        shape(1536, 4096, 12, 12, 49152, mlp_bias=True),
    ],
    "mistral": [shape(4096, 14336, 32, 8, 32000), shape(5120, 14336, 32, 8, 131072, head_dim=128)],
    "qwen2": [
        shape(1536, 8960, 12, 2, 151936, tie_word_embeddings=True),
        shape(5120, 13824, 40, 8, 152064),
    ],
    "qwen3": [
        shape(1024, 3072, 16, 8, 151936, tie_word_embeddings=True, head_dim=128),
        shape(4096, 12288, 32, 8, 151936),
    ],
    "qwen2_moe": [
        shape(
            2048,
            5632,
            16,
            16,
            151936,
            num_experts=60,
            num_experts_per_tok=4,
            moe_intermediate_size=1408,
            shared_expert_intermediate_size=5632,
        ),
        shape(
            1024,
            2816,
            16,
            4,
            32000,
            num_experts=16,
            num_experts_per_tok=2,
            moe_intermediate_size=704,
            shared_expert_intermediate_size=1408,
        ),
    ],
    "qwen3_moe": [
        shape(
            2048,
            6144,
            32,
            4,
            151936,
            num_experts=64,
            num_experts_per_tok=8,
            moe_intermediate_size=768,
        ),
        shape(
            1024,
            3072,
            16,
            4,
            32000,
            num_experts=32,
            num_experts_per_tok=4,
            moe_intermediate_size=512,
        ),
    ],
    "mixtral": [
        shape(4096, 14336, 32, 8, 32000, num_local_experts=8),
        shape(1024, 3584, 16, 4, 32000, num_local_experts=4),
    ],
    "gemma": [shape(2048, 16384, 8, 1, 256000), shape(3072, 24576, 16, 16, 256000)],
    "gemma2": [shape(3584, 14336, 16, 8, 256000), shape(2304, 9216, 8, 4, 256000)],
    "gemma3_text": [
        shape(2560, 10240, 8, 4, 262208),
        shape(1152, 6912, 4, 1, 262144, sliding_window=512),
    ],
    "phi3": [shape(3072, 8192, 32, 32, 32064), shape(5120, 17920, 40, 10, 100352)],
    "gpt2": [
        {"n_embd": 1024, "n_head": 16},
        {"n_embd": 1600, "n_head": 25},
        {"n_embd": 768, "n_head": 12, "vocab_size": 32000},
    ],
    "gpt_neox": [
        shape(2560, 10240, 32, None, 50304),
        shape(1024, 4096, 16, None, 50304, use_parallel_residual=False),
    ],
    "gptj": [{"n_embd": 2048, "n_head": 16, "rotary_dim": 64}, {"n_embd": 4096, "n_head": 16}],
    "opt": [
        {
            "hidden_size": 768,
            "ffn_dim": 3072,
            "num_attention_heads": 12,
            "word_embed_proj_dim": 768,
        },
        {
            "hidden_size": 2560,
            "ffn_dim": 10240,
            "num_attention_heads": 32,
            "word_embed_proj_dim": 2560,
        },
    ],
    "bloom": [
        {"hidden_size": 1536, "n_head": 16, "vocab_size": 250880},
        {"hidden_size": 2560, "n_head": 32, "vocab_size": 250880},
    ],
    "falcon": [
        {
            "hidden_size": 4544,
            "num_attention_heads": 71,
            "multi_query": True,
            "parallel_attn": True,
            "bias": False,
        },
        {
            "hidden_size": 2048,
            "num_attention_heads": 32,
            "new_decoder_architecture": True,
            "num_kv_heads": 8,
        },
        {
            "hidden_size": 2048,
            "num_attention_heads": 32,
            "multi_query": False,
            "parallel_attn": False,
            "bias": True,
            "alibi": True,
        },
    ],
    "mpt": [
        {"d_model": 4096, "n_heads": 32, "vocab_size": 50432},
        {"d_model": 2048, "n_heads": 16, "vocab_size": 50368},
    ],
    "olmo2": [shape(4096, 11008, 32, 32, 100352), shape(2048, 8192, 16, 16, 100352)],
    "granite": [
        shape(2048, 8192, 32, 8, 49155),
        shape(4096, 12800, 32, 8, 49155, tie_word_embeddings=True),
    ],
    "cohere": [
        shape(4096, 14336, 32, 8, 256000),
        shape(8192, 22528, 64, 64, 256000, use_qk_norm=True),
    ],
    "starcoder2": [
        shape(3072, 12288, 24, 2, 49152),
        shape(4608, 18432, 36, 4, 49152, use_bias=False),
    ],
    "deepseek_v2": [
        shape(
            2048,
            10944,
            16,
            16,
            102400,
            kv_lora_rank=512,
            q_lora_rank=None,
            n_routed_experts=64,
            num_experts_per_tok=6,
            moe_intermediate_size=1408,
            first_k_dense_replace=1,
        ),
        shape(
            1024,
            2816,
            8,
            8,
            32000,
            kv_lora_rank=256,
            q_lora_rank=512,
            n_routed_experts=16,
            num_experts_per_tok=4,
            moe_intermediate_size=512,
            first_k_dense_replace=1,
        ),
    ],
    "deepseek_v3": [
        shape(
            2048,
            5632,
            16,
            16,
            129280,
            n_routed_experts=32,
            num_experts_per_tok=4,
            moe_intermediate_size=1024,
            first_k_dense_replace=1,
        ),
        shape(
            1024,
            2816,
            8,
            8,
            32000,
            kv_lora_rank=256,
            q_lora_rank=512,
            n_routed_experts=16,
            num_experts_per_tok=4,
            moe_intermediate_size=512,
            n_group=4,
            topk_group=2,
            first_k_dense_replace=1,
        ),
    ],
    "gpt_oss": [
        shape(2880, 2880, 64, 8, 201088, num_local_experts=32, head_dim=64),
        shape(1024, 1024, 16, 4, 32000, num_local_experts=8, num_experts_per_tok=2, head_dim=64),
    ],
}


def draw(random_source: random.Random, model_type: str, number: int) -> dict[str, Any]:
    """One case of a family; eager attention and long sequences are not drawn together."""
    config: dict[str, Any] = {"model_type": model_type}
    config |= SHAPES[model_type][number % len(SHAPES[model_type])]
    # PyTorch's grouped matrix product takes bfloat16 only
    dtype = "bfloat16" if any("expert" in name for name in config) else "float32"
    layers = random_source.choice((1, 2, 2, 3, 4, 6))
    attention = random_source.choice(("flash", "flash", "eager"))
    seq = random_source.choice(
        (256, 512, 1024, 2048, *((4096, 8192) if attention == "flash" else ()))
    )
    batch = random_source.choice([b for b in (1, 2, 3, 4, 8) if b * seq <= 16384])
    known = transformers.CONFIG_MAPPING[model_type].attribute_map
    config[known.get("num_hidden_layers", "num_hidden_layers")] = layers
    positions = known.get("max_position_embeddings", "max_position_embeddings")
    default = getattr(transformers.CONFIG_MAPPING[model_type](), positions, None)
    if isinstance(default, int) and default < seq:
        config[positions] = seq
    return {
        "layers": layers,
        "seq": seq,
        "batch": batch,
        "attention": attention,
        "checkpointing": random_source.random() < 0.4,
        "dtype": random_source.choice(("bfloat16", "bfloat16", "bfloat16", dtype)),
        "optimizer": random_source.choice(("adamw", "adamw", "adamw", "sgd", "sgd-momentum")),
        "config": config,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--per-family", type=int, default=3)
    parser.add_argument("families", nargs="*")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    lines = []
    for model_type in arguments.families or SHAPES:
        source = random.Random(f"{arguments.seed} {model_type}")
        for number in range(arguments.per_family):
            record = {"id": f"seed{arguments.seed}-{model_type}-{number + 1}", "model": model_type}
            record |= draw(source, model_type, number)
            try:
                traced = StepTrace(case_of(record))
            except (RuntimeError, ValueError, TypeError, AttributeError) as error:
                print(record["id"], "left out:", str(error).splitlines()[0], flush=True)
                continue
            record |= {"attention_ran": traced.attention, "result": record_of(traced)}
            lines.append(json.dumps(record))
            print(record["id"], traced.attention, traced.result["peak"]["Total"], flush=True)
            Path(arguments.output).write_text("[\n" + ",\n".join(lines) + "\n]\n")
    print(f"{len(lines)} cases, torch {torch.__version__}, transformers {transformers.__version__}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
