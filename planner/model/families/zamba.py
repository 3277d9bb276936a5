"""Zamba and Zamba2: Mamba layers with one or a few transformer blocks that run again and again.

A hybrid layer first runs a shared transformer block on the residual stream beside the token
embedding (twice hidden_size), then a linear, then its own Mamba mixer. The shared block's weights
belong to the first layer that runs it; in Zamba2 each run adds low-rank adapters of its own.
Transformers shares nothing at all, these blocks neither, where tie_word_embeddings is false.
"""

from __future__ import annotations

from dataclasses import dataclass

from planner.model import blocks
from planner.model.assemble import OLD_LAYER_TYPES, layers_of, output_head, token_embedding
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.families.mamba import SCAN_SETTINGS, expanded, time_step_rank
from planner.model.operations import Block, Tensor
from planner.model.spec import ModelSpec, Placed
from planner.model.state_space import (
    SCAN_NOT_MODELLED,
    Mamba2,
    convolution_flops,
    depthwise_convolution,
    mamba2_mixer,
    recurrence,
)

# Hybrid layers of Zamba2 where the config names none: after 6, then every 6th, then closer.
ZAMBA2_LAYERS = 54
ZAMBA2_HYBRIDS = (6, 12, 18, 24, 30, 36, 42, 47, 51)


@dataclass(frozen=True)
class Shared:
    """The shared transformer block: attention over `width` inputs, gated feed-forward part."""

    name: str
    width: int
    heads: blocks.Heads
    intermediate_size: int
    activation: str
    rotary: bool
    fused: bool
    bias: bool


def build(c: Config) -> ModelSpec:
    c.ignore(*SCAN_SETTINGS, "use_long_context", "kv_channels", "num_query_groups")
    if c.model_type == "zamba2":  # worked out anew by its configuration class, given or not
        c.ignore("attention_head_dim", "attention_hidden_size", "hybrid_layer_ids")
        c.ignore("ffn_hidden_size")
    hidden, vocab = c.size("hidden_size"), c.size("vocab_size")
    tied = c.flag("tie_word_embeddings")
    layers = (zamba if c.model_type == "zamba" else zamba2)(c, hidden, tied)
    head = output_head(
        hidden,
        vocab,
        tied_to="model.embed_tokens.weight" if tied else None,
        norm_name="model.final_layernorm",
    )
    warnings = c.finish()
    return ModelSpec(
        name=c.model_type,
        model_type=c.model_type,
        hidden_size=hidden,
        embedding=Placed("", token_embedding(vocab, hidden)),
        layers=tuple(layers),
        head=Placed("", head),
        config=c.given,
        assumed=c.assumed,
        warnings=warnings,
        not_trainable_because=SCAN_NOT_MODELLED,
    )


def kinds_of_layers(c: Config, default: tuple[str, ...]) -> tuple[str, ...]:
    given = c.words("layers_block_type")
    if given is None:
        return default
    kinds = tuple(OLD_LAYER_TYPES.get(kind, kind) for kind in given)
    known = set(kinds) <= {"linear_attention", "hybrid"}
    c.require(known, "layers_block_type", "linear_attention (or mamba) and hybrid only")
    return kinds


def shared_block(hidden: int, s: Shared) -> Block:
    b = BlockBuilder("shared transformer", hidden)
    x = b.concatenate(b.input, b.input)  # the residual stream beside the token embedding
    x = b.rms_norm(x, "input_layernorm")
    a = b.part("self_attn", "attention")
    q = a.linear(x, "q_proj", s.heads.q_width)
    k = a.linear(x, "k_proj", s.heads.kv_width)
    v = a.linear(x, "v_proj", s.heads.kv_width)
    out = blocks.rotated_attention(a, q, k, v, s.heads, rotary=float(s.rotary))
    x = b.rms_norm(a.linear(out, "o_proj", hidden, split="row"), "pre_ff_layernorm")
    f = b.part("feed_forward", "feed_forward")
    if s.fused:
        inner = s.intermediate_size
        gate, up = f.split(f.linear(x, "gate_up_proj", 2 * inner, bias=s.bias), inner, inner)
        product = f.multiply(f.activation(gate, s.activation), up)
        f.linear(product, "down_proj", hidden, bias=s.bias, split="row")
    else:
        blocks.gated_feed_forward(
            f, x, intermediate_size=s.intermediate_size, activation=s.activation
        )
    return b.block()


# ---- Zamba: one shared block, Mamba mixers in heads ---------------------------------------------


def zamba(c: Config, hidden: int, tied: bool) -> list[Placed]:
    period, offset = c.size("attn_layer_period"), c.count("attn_layer_offset")
    layers = layers_of(c)
    rest = ("hybrid" if i % period == offset else "linear_attention" for i in range(layers - 3))
    kinds = kinds_of_layers(c, ("linear_attention", "linear_attention", "hybrid", *rest))
    c.require(layers == len(kinds), "num_hidden_layers", f"{len(kinds)}, one per layer type")
    heads = c.size("num_attention_heads")
    width = c.size("attention_hidden_size", 2 * hidden)
    s = Shared(
        "shared_transf",
        width,
        blocks.Heads(
            heads,
            c.size("num_key_value_heads", heads),
            c.size("attention_head_dim", 2 * hidden // heads),
        ),
        c.size("intermediate_size"),
        c.word("hidden_act"),
        rotary=False,
        fused=False,
        bias=False,
    )
    c.require(width == 2 * hidden, "attention_hidden_size", f"{2 * hidden}, twice hidden_size")
    plain = BlockBuilder("mamba", hidden)
    zamba_mixer(plain, c, hidden, plain.input, "")
    hybrid = BlockBuilder("linear + mamba", hidden)
    zamba_mixer(hybrid, c, hidden, hybrid.linear(hybrid.input, "linear", hidden), "mamba_decoder")
    shared = shared_block(hidden, s)
    placed: list[Placed] = []
    owner: str | None = None
    for i, kind in enumerate(kinds):
        prefix = f"model.layers.{i}."
        if kind == "hybrid":
            placed.append(Placed(f"{prefix}{s.name}.", shared, owner))
            if tied:
                owner = owner or f"{prefix}{s.name}."
        placed.append(Placed(prefix, (hybrid if kind == "hybrid" else plain).block()))
    return placed


def zamba_mixer(b: BlockBuilder, c: Config, hidden: int, x: Tensor, prefix: str) -> None:
    """Mamba whose step size, B and C are made per head, by stacked matrices."""
    inner, heads = expanded(c, "mamba_expand", hidden), c.size("n_mamba_heads")
    c.require(inner % heads == 0, "n_mamba_heads", f"a divisor of the inner width {inner}")
    rank = time_step_rank(c, "mamba_dt_rank", hidden)
    state, kernel = c.size("mamba_d_state"), c.size("mamba_d_conv")
    head_dim, bias = inner // heads, c.flag("mamba_proj_bias")
    c.ignore("hidden_mamba_act")
    outer = b.part(prefix)
    x = outer.rms_norm(x, "input_layernorm")
    m = outer.part("mamba", "state_space")
    both = m.linear(x, "in_proj", 2 * inner, bias=bias)
    weights = (
        m.weight("x_proj_weight", heads, rank + 2 * state, head_dim, split="column"),
        m.weight("dt_proj_weight", heads, head_dim, rank, split="column"),
        m.weight("dt_proj_bias", heads, head_dim, kind="vector", split="column"),
        m.weight("A_log", heads, head_dim, state, kind="vector", split="column"),
        m.weight("D", heads, head_dim, kind="vector", split="column"),
        *depthwise_convolution(m, "conv1d", inner, kernel, c.flag("mamba_conv_bias")),
    )
    products = 2 * inner * (rank + 2 * state) + 2 * inner * rank
    out = recurrence(
        m,
        "scan",
        inner,
        (both,),
        weights,
        state=inner * state,
        other_flops=convolution_flops(inner, kernel) + products,
    )
    b.add(b.input, m.linear(out, "out_proj", hidden, bias=bias, split="row"))


# ---- Zamba2: several shared blocks in turn, Mamba-2 mixers, adapters ----------------------------


def zamba2(c: Config, hidden: int, tied: bool) -> list[Placed]:
    heads = c.size("num_attention_heads")
    default = tuple(
        "hybrid" if i in ZAMBA2_HYBRIDS else "linear_attention" for i in range(ZAMBA2_LAYERS)
    )
    kinds = kinds_of_layers(c, default)
    layers = layers_of(c)
    c.require(layers == len(kinds), "num_hidden_layers", f"{len(kinds)}, one per layer type")
    s = Shared(
        "shared_transformer",
        2 * hidden,
        blocks.Heads(heads, c.size("num_key_value_heads", heads), 2 * hidden // heads),
        c.size("intermediate_size", 4 * hidden),
        c.word("hidden_act"),
        rotary=c.flag("use_mem_rope"),
        fused=True,
        bias=c.flag("add_bias_linear"),
    )
    rank, owners = c.size("adapter_rank"), c.size("num_mem_blocks")
    attention_adapters = c.flag("use_shared_attention_adapter")
    m = mamba2_sizes(c, hidden)
    plain = BlockBuilder("mamba", hidden)
    zamba2_mixer(plain, m, plain.input, "")
    shared, mamba = shared_block(hidden, s), plain.block()
    placed: list[Placed] = []
    first: list[str] = []  # prefix of the layer that owns each shared block
    run = 0
    for i, kind in enumerate(kinds):
        prefix = f"model.layers.{i}."
        if kind != "hybrid":
            placed.append(Placed(prefix, mamba))
            continue
        mine = f"{prefix}{s.name}."
        owner = first[run % owners] if tied and run >= owners else None
        if owner is None:
            first.append(mine)
        placed.append(Placed(mine, shared, owner))
        b = BlockBuilder("adapters + linear + mamba", hidden)
        own = (run,) if tied else range(run % owners, kinds.count("hybrid"), owners)
        for number in own:
            adapters(b, s, owner or mine, number, rank, attention_adapters)
        zamba2_mixer(b, m, b.linear(b.input, "linear", hidden), "mamba_decoder")
        placed.append(Placed(prefix, b.block()))
        run += 1
    return placed


def adapters(b: BlockBuilder, s: Shared, owner: str, run: int, rank: int, attention: bool) -> None:
    """Low-rank additions to the shared block's matrices for this run of it."""
    inputs = b.concatenate(b.input, b.input)
    wanted = [("feed_forward.gate_up_proj_adapter_list", b.input, 2 * s.intermediate_size)]
    if attention:
        names = (f"self_attn.linear_{x}_adapter_list" for x in "qkv")
        wanted += [(name, inputs, s.width) for name in names]
    for name, x, out in wanted:
        down = b.linear(x, f"/{owner}{name}.{run}.0", rank, group="other")
        b.linear(down, f"/{owner}{name}.{run}.1", out, split="row", group="other")


def zamba2_mixer(b: BlockBuilder, m: Mamba2, x: Tensor, prefix: str) -> None:
    outer = b.part(prefix)
    x = outer.rms_norm(x, "input_layernorm")
    b.add(b.input, mamba2_mixer(outer.part("mamba", "state_space"), x, m))


def mamba2_sizes(c: Config, hidden: int) -> Mamba2:
    inner, heads = expanded(c, "mamba_expand", hidden), c.size("n_mamba_heads")
    c.require(inner % heads == 0, "n_mamba_heads", f"a divisor of the inner width {inner}")
    given = c.optional("mamba_headdim")
    c.require(given in (None, inner // heads), "mamba_headdim", f"{inner // heads}")
    c.ignore("use_conv_bias")  # the convolution has a bias whatever it says
    bias = c.flag("add_bias_linear")
    return Mamba2(
        inner=inner,
        heads=heads,
        groups=c.size("mamba_ngroups"),
        state=c.size("mamba_d_state"),
        kernel=c.size("mamba_d_conv"),
        convolution_bias=True,
        bias=bias,
        output_bias=bias,
    )
