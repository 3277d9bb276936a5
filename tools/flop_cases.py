"""FLOPs of one pass of tiny Transformers models as PyTorch's FlopCounterMode counts them.

    python tools/flop_cases.py -o tests/data/flops.json

A case is {name, config, batch, sequence, forward, backward}: FLOPs of every matrix product that ran
on a CPU, two for each multiply-add, with written-out attention (every query sees every key).
Needs torch and transformers.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

BATCH, SEQUENCE = 2, 48
DENSE: dict[str, Any] = {
    "hidden_size": 96,
    "intermediate_size": 224,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "pad_token_id": 0,
}
EXPERTS: dict[str, Any] = {"num_experts_per_tok": 2, "moe_intermediate_size": 80}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": DENSE,
    "qwen2": {**DENSE, "tie_word_embeddings": True},
    "qwen3": {**DENSE, "head_dim": 24},
    "gemma2": {**DENSE, "head_dim": 24, "sliding_window": 16},
    "phi3": DENSE,
    "olmo2": DENSE,
    "gpt2": {"n_embd": 96, "n_layer": 3, "n_head": 6, "vocab_size": 320, "n_positions": 64},
    "gpt_neox": {**DENSE, "max_position_embeddings": 64},
    "bert": {**DENSE, "max_position_embeddings": 64},
    "mixtral": {**DENSE, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {**DENSE, **EXPERTS, "num_experts": 6, "head_dim": 24},
    "deepseek_v3": {
        **DENSE,
        **EXPERTS,
        "num_key_value_heads": 6,
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "n_group": 2,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "kv_lora_rank": 32,
        "q_lora_rank": 48,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 16,
        "v_head_dim": 24,
    },
}


def counted(model_type: str, fields: dict[str, Any]) -> dict[str, Any]:
    """One case: a forward pass with labels, and its backward."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(model_type, **fields)
    auto = transformers.AutoModelForCausalLM
    if model_type == "bert":
        auto = transformers.AutoModelForMaskedLM
    model = auto.from_config(config, attn_implementation="eager")
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")  # grouped kernels are not counted
    tokens = torch.randint(1, 320, (BATCH, SEQUENCE))
    with FlopCounterMode(display=False) as ahead:
        loss = model(input_ids=tokens, labels=tokens).loss
    with FlopCounterMode(display=False) as back:
        loss.backward()
    return {
        "name": model_type,
        "config": {"model_type": model_type, **fields},
        "batch": BATCH,
        "sequence": SEQUENCE,
        "forward": ahead.get_total_flops(),
        "backward": back.get_total_flops(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    output = parser.parse_args().output
    cases = [counted(name, fields) for name, fields in CONFIGS.items()]
    versions = f"PyTorch {torch.__version__}, Transformers {transformers.__version__}"
    document = {"source": f"tools/flop_cases.py, {versions}", "cases": cases}
    output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"{len(cases)} cases, {versions}")


if __name__ == "__main__":
    main()
