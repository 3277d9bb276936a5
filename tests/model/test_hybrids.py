"""Hybrids: which mixer stands where, and blocks that run more often than they have weights.

Totals are Transformers 5.24.0's, built on the meta device.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from planner.errors import InputError
from planner.model import families
from planner.model.config import Config
from planner.model.parameters import count_parameters, tensors
from planner.model.spec import ModelSpec


def build(model_type: str, **fields: Any) -> ModelSpec:
    return families.build(Config({"model_type": model_type, **fields}))


def test_zamba2_counts_a_shared_block_once_however_often_it_runs() -> None:
    spec = build("zamba2")
    runs = [place for place in spec.layers if place.block.name == "shared transformer"]
    assert [place.weights_of is None for place in runs] == [True] + [False] * 8
    owner = runs[0].prefix
    assert {place.weights_of for place in runs[1:]} == {owner}
    assert count_parameters(spec).total == 2_481_848_336


def test_zamba2_blocks_take_turns_and_each_run_has_adapters_of_its_own() -> None:
    spec = build("zamba2", num_mem_blocks=2, use_shared_attention_adapter=True)
    runs = [place for place in spec.layers if place.block.name == "shared transformer"]
    first, second = runs[0].prefix, runs[1].prefix
    assert [place.weights_of for place in runs[2:]] == [first, second] * 3 + [first]
    names = [name for name, _ in tensors(spec)]
    adapters = [name for name in names if "gate_up_proj_adapter_list" in name]
    assert sum(name.startswith(first) for name in adapters) == 2 * 5
    assert sum(name.startswith(second) for name in adapters) == 2 * 4
    assert len(set(names)) == len(names)
    assert count_parameters(spec).total == 2_687_639_056


def test_zamba2_shares_nothing_where_embeddings_are_not_tied() -> None:
    spec = build("zamba2", tie_word_embeddings=False)
    assert all(place.weights_of is None for place in spec.layers)
    assert count_parameters(spec).total == 4_139_315_216


def test_zamba_shares_one_block() -> None:
    spec = build("zamba")
    shared = [place for place in spec.layers if place.block.name == "shared transformer"]
    assert len(shared) == 13
    assert sum(place.weights_of is None for place in shared) == 1
    assert count_parameters(spec).total == 7_232_490_496


def test_jamba_puts_attention_and_experts_in_every_eighth_and_second_layer() -> None:
    kinds = [place.block.name for place in build("jamba").layers]
    attention = [i for i, kind in enumerate(kinds) if kind.startswith("attention")]
    experts = [i for i, kind in enumerate(kinds) if kind.endswith("experts")]
    assert attention == [4, 12, 20, 28]
    assert experts == list(range(1, 32, 2))


def test_nemotron_h_reads_its_letters() -> None:
    spec = build("nemotron_h", hybrid_override_pattern="MM*-E")
    kinds = [place.block.name for place in spec.layers]
    assert kinds == ["linear_attention", "linear_attention", "full_attention", "mlp", "moe"]
    with pytest.raises(InputError, match="hybrid_override_pattern"):
        build("nemotron_h", hybrid_override_pattern="MX")


def test_older_names_of_layer_types_are_read() -> None:
    fields = {"num_hidden_layers": 3, "num_local_experts": 0}
    old = build("granitemoehybrid", layer_types=["mamba", "attention", "mamba"], **fields)
    names = ["linear_attention", "full_attention", "linear_attention"]
    new = build("granitemoehybrid", layer_types=names, **fields)
    assert count_parameters(old) == count_parameters(new)
    with pytest.raises(InputError, match="layer_types"):
        build("granitemoehybrid", layer_types=["mamba", "attention", "sponge"], **fields)


def test_kimi_linear_counts_layers_from_one_in_its_own_configs() -> None:
    spec = build(
        "kimi_linear",
        num_hidden_layers=6,
        linear_attn_config={
            "full_attn_layers": [4],
            "kda_layers": [1, 2, 3, 5, 6],
            "num_heads": 16,
            "head_dim": 64,
            "short_conv_kernel_size": 5,
        },
    )
    kinds = [place.block.name.split(" + ")[0] for place in spec.layers]
    assert kinds == ["linear_attention"] * 3 + ["full_attention"] + ["linear_attention"] * 2
    assert count_parameters(spec).total == 9_995_438_224


def test_qwen3_next_has_attention_in_every_fourth_layer() -> None:
    spec = build("qwen3_next", full_attention_interval=3, num_hidden_layers=9)
    kinds = Counter(place.block.name for place in spec.layers)
    assert kinds == {"linear_attention + experts": 6, "full_attention + experts": 3}


@pytest.mark.parametrize("model_type", ["mamba", "jamba", "zamba2", "qwen3_next", "rwkv", "lfm2"])
def test_training_memory_of_scans_is_not_claimed(model_type: str) -> None:
    assert "not modelled" in str(build(model_type).not_trainable_because)


def test_the_scan_counts_its_state_and_not_the_context() -> None:
    """A state-space layer costs the same at any length: no operation grows with the context."""
    block = build("mamba").layers[0].block
    assert all(operation.flops_per_pair == 0 for operation in block.operations)
    scan = next(op for op in block.operations if op.name.endswith("scan"))
    assert scan.flops_per_token == 6 * 1536 * 16
