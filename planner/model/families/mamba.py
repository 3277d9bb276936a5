"""Mamba, Falcon-Mamba and Mamba-2: a stack of state-space mixers with no feed-forward part."""

from __future__ import annotations

from planner.model.assemble import assemble, layers_of, output_head, token_embedding
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.operations import Block
from planner.model.spec import ModelSpec
from planner.model.state_space import (
    SCAN_NOT_MODELLED,
    Mamba,
    Mamba2,
    mamba2_mixer,
    mamba_mixer,
)

# Fields that set how the scan starts or which kernel runs it; no tensor depends on them.
SCAN_SETTINGS = (
    "time_step_scale",
    "time_step_min",
    "time_step_max",
    "time_step_floor",
    "time_step_limit",
    "time_step_init_scheme",
    "rescale_prenorm_residual",
    "residual_in_fp32",
    "use_mambapy",
    "use_associative_scan",
    "use_mamba_kernels",
    "use_mem_eff_path",
    "mamba_ssm_cache_dtype",
    "mamba_chunk_size",
    "chunk_size",
    "num_logits_to_keep",
    "mixer_rms_eps",
)


def build(c: Config) -> ModelSpec:
    width, vocab = c.size("hidden_size"), c.size("vocab_size")
    c.ignore(*SCAN_SETTINGS)
    tied = c.flag("tie_word_embeddings")
    b = BlockBuilder("mamba", width)
    x = b.rms_norm(b.input, "norm")
    mixer = b.part("mixer", "state_space")
    if c.model_type == "mamba2":
        out = mamba2_mixer(mixer, x, mamba2_sizes(c, width))
    else:
        out = mamba_mixer(mixer, x, mamba_sizes(c, width))
    b.add(b.input, out)
    return stack(c, b.block(), width, vocab, tied)


def stack(c: Config, block: Block, width: int, vocab: int, tied: bool) -> ModelSpec:
    return assemble(
        c,
        hidden_size=width,
        embedding=token_embedding(vocab, width, prefix="backbone", name="embeddings"),
        blocks={block.name: block},
        pattern=(block.name,) * layers_of(c),
        head=output_head(
            width,
            vocab,
            tied_to="backbone.embeddings.weight" if tied else None,
            norm_name="backbone.norm_f",
        ),
        layer_prefix="backbone.layers.{}.",
        not_trainable_because=SCAN_NOT_MODELLED,
    )


def expanded(c: Config, field: str, width: int) -> int:
    """The inner width: expand (which need not be whole) x hidden_size."""
    inner = int(c.number(field, 2) * width)
    c.require(inner > 0, field, "a number that leaves an inner width above 0")
    return inner


def time_step_rank(c: Config, field: str, width: int) -> int:
    """The low-rank width of the step size; "auto" is a sixteenth of hidden_size, rounded up."""
    return -(-width // 16) if c.raw(field) == "auto" else c.size(field)


def mamba_sizes(c: Config, width: int) -> Mamba:
    c.ignore("intermediate_size")  # always worked out from expand, even where it is given
    return Mamba(
        inner=expanded(c, "expand", width),
        state=c.size("state_size"),
        time_step_rank=time_step_rank(c, "time_step_rank", width),
        kernel=c.size("conv_kernel"),
        convolution_bias=c.flag("use_conv_bias"),
        bias=c.flag("use_bias"),
        activation=c.word("hidden_act"),
    )


def mamba2_sizes(c: Config, width: int) -> Mamba2:
    heads = c.size("num_heads")
    inner = expanded(c, "expand", width)
    c.require(inner == heads * c.size("head_dim"), "num_heads", f"{inner} / head_dim heads")
    c.ignore("time_step_rank", "hidden_act")
    bias = c.flag("use_bias")
    return Mamba2(
        inner=inner,
        heads=heads,
        groups=c.size("n_groups"),
        state=c.size("state_size"),
        kernel=c.size("conv_kernel"),
        convolution_bias=c.flag("use_conv_bias"),
        bias=bias,
        output_bias=bias,
    )
