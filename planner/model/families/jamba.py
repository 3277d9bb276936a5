"""Decoders that mix attention with state-space layers: Jamba, Bamba, Falcon-H1, Granite-4 hybrid.

All are pre-norm with a gated feed-forward part or routed experts after the mixer; they differ in
which mixer stands where. NemotronH, whose blocks hold a mixer or a feed-forward part but never
both, is in nemotron_h.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from planner.model import blocks
from planner.model.assemble import (
    assemble,
    heads_of,
    layer_types,
    layers_of,
    output_head,
    rms,
    rotary_fraction,
    scaled,
    token_embedding,
)
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.families.mamba import SCAN_SETTINGS, time_step_rank
from planner.model.operations import Block, Tensor
from planner.model.spec import ModelSpec
from planner.model.state_space import (
    SCAN_NOT_MODELLED,
    Mamba,
    Mamba2,
    mamba2_mixer,
    mamba_mixer,
)
from planner.model.wiring import Part, pre_norm

Pattern = tuple[str, ...]
MIXERS = ("linear_attention", "full_attention")


def build(c: Config) -> ModelSpec:
    c.ignore(*SCAN_SETTINGS)
    layers = layers_of(c)
    pattern, decoder_layer = LINEAGE[c.model_type](c, layers)
    kinds = {kind: decoder_layer(kind) for kind in dict.fromkeys(pattern)}
    width, vocab = c.size("hidden_size"), c.size("vocab_size")
    granite = c.model_type == "granitemoehybrid"
    return assemble(
        c,
        hidden_size=width,
        embedding=token_embedding(vocab, width, after=scaled if granite else None),
        blocks=kinds,
        pattern=pattern,
        head=output_head(
            width,
            vocab,
            tied_to="model.embed_tokens.weight" if c.flag("tie_word_embeddings") else None,
            norm_name="model.norm" if granite else "model.final_layernorm",
            after=scaled if granite else None,
        ),
        not_trainable_because=SCAN_NOT_MODELLED,
    )


LayerOf = Callable[[str], Block]


def attention(c: Config, *, bias: bool = False, rotary: float = 1.0) -> Part:
    h = heads_of(c)

    def part(b: BlockBuilder, x: Tensor) -> Tensor:
        inner = b.part("self_attn", "attention")
        return blocks.grouped_query_attention(
            inner, x, h, bias=bias, output_bias=bias, rotary=rotary
        )

    return part


def dense(c: Config, bias: bool = False) -> Part:
    inner_size, activation = c.size("intermediate_size"), c.word("hidden_act")

    def part(b: BlockBuilder, x: Tensor) -> Tensor:
        inner = b.part("feed_forward", "feed_forward")
        return blocks.gated_feed_forward(
            inner, x, intermediate_size=inner_size, activation=activation, bias=bias
        )

    return part


def mamba2_sizes(c: Config, *, d_ssm: int | None = None, output_bias: bool | None = None) -> Mamba2:
    """The fields that Bamba, Falcon-H1 and Granite share; d_ssm: an inner width of its own."""
    expanded = int(c.number("mamba_expand", 2) * c.size("hidden_size"))
    inner = d_ssm or expanded
    heads = c.size("mamba_n_heads")
    c.require(inner % heads == 0, "mamba_n_heads", f"a divisor of the inner width {inner}")
    if c.raw("mamba_d_head") != "auto":
        c.require(c.size("mamba_d_head") * heads == inner, "mamba_d_head", f"{inner // heads}")
    bias = c.flag("mamba_proj_bias")
    return Mamba2(
        inner=inner,
        heads=heads,
        groups=c.size("mamba_n_groups"),
        state=c.size("mamba_d_state"),
        kernel=c.size("mamba_d_conv"),
        convolution_bias=c.flag("mamba_conv_bias"),
        bias=bias,
        output_bias=bias if output_bias is None else output_bias,
    )


def _mamba2(m: Mamba2) -> Part:
    return lambda b, x: mamba2_mixer(b.part("mamba", "state_space"), x, m)


def _layer(
    kind: str,
    c: Config,
    mixer: Part,
    feed: Part,
    *,
    names: tuple[str, str] = ("input_layernorm", "pre_ff_layernorm"),
    scaled: bool = False,
) -> Block:
    b = BlockBuilder(kind, c.size("hidden_size"))
    pre_norm(b, rms, mixer, feed, names=names, scaled=scaled)
    return b.block()


# ---- each family -------------------------------------------------------------------------------


def jamba(c: Config, layers: int) -> tuple[Pattern, LayerOf]:
    """Attention every attn_layer_period layers, experts every expert_layer_period layers."""
    width = c.size("hidden_size")
    m = Mamba(
        inner=int(c.number("mamba_expand", 2) * width),
        state=c.size("mamba_d_state"),
        time_step_rank=time_step_rank(c, "mamba_dt_rank", width),
        kernel=c.size("mamba_d_conv"),
        convolution_bias=c.flag("mamba_conv_bias"),
        bias=c.flag("mamba_proj_bias"),
        activation=c.word("hidden_act"),
        norms=True,
    )
    experts = c.size("num_experts")
    e = blocks.Experts(
        experts, c.size("num_experts_per_tok"), c.size("intermediate_size"), c.word("hidden_act")
    )

    def routed(b: BlockBuilder, x: Tensor) -> Tensor:
        return blocks.routed_experts(b.part("feed_forward", "experts"), x, e, router="router")

    mixers = {
        "attention": attention(c, rotary=0),
        "mamba": lambda b, x: mamba_mixer(b.part("mamba", "state_space"), x, m),
    }
    feeds = {"experts": routed, "feed_forward": dense(c)}

    def periodic(i: int, field: str) -> bool:
        period, offset = c.size(f"{field}_layer_period"), c.count(f"{field}_layer_offset")
        c.require(offset < period, f"{field}_layer_offset", f"a number below {period}")
        return i % period == offset

    pattern = tuple(
        ("attention" if periodic(i, "attn") else "mamba")
        + (" + experts" if experts > 1 and periodic(i, "expert") else " + feed_forward")
        for i in range(layers)
    )

    def decoder_layer(kind: str) -> Block:
        mixer, feed = kind.split(" + ")
        return _layer(kind, c, mixers[mixer], feeds[feed])

    return pattern, decoder_layer


def bamba(c: Config, layers: int) -> tuple[Pattern, LayerOf]:
    """Attention at attn_layer_indices, Mamba-2 elsewhere."""
    at = c.sizes("attn_layer_indices") or ()
    rotary = rotary_fraction(c)
    mixers = {
        "full_attention": attention(c, bias=c.flag("attention_bias"), rotary=rotary),
        "linear_attention": _mamba2(mamba2_sizes(c)),
    }
    feed = dense(c, c.flag("mlp_bias"))
    pattern = tuple("full_attention" if i in at else "linear_attention" for i in range(layers))
    return pattern, lambda kind: _layer(kind, c, mixers[kind], feed)


def falcon_h1(c: Config, layers: int) -> tuple[Pattern, LayerOf]:
    """Attention and Mamba-2 side by side in every layer, their outputs added."""
    c.ignore("mamba_norm_before_gate", "mlp_multipliers", "ssm_multipliers", "mamba_use_mlp")
    m = mamba2_sizes(c, d_ssm=c.optional("mamba_d_ssm"), output_bias=c.flag("projectors_bias"))
    m = replace(m, gated_norm=c.flag("mamba_rms_norm"))
    attend, scan = attention(c, bias=c.flag("attention_bias")), _mamba2(m)

    def both(b: BlockBuilder, x: Tensor) -> Tensor:
        return b.add(b.scale(scan(b, x)), b.scale(attend(b, b.scale(x))))

    feed = dense(c, c.flag("mlp_bias"))
    return ("hybrid",) * layers, lambda kind: _layer(kind, c, both, feed)


def granitemoehybrid(c: Config, layers: int) -> tuple[Pattern, LayerOf]:
    """layer_types says which mixer; experts (if any) and a shared feed-forward part in each."""
    rotary = 1.0 if c.one_of("position_embedding_type", (None, "rope", "nope")) == "rope" else 0.0
    mixers = {
        "full_attention": attention(c, bias=c.flag("attention_bias"), rotary=rotary),
        "linear_attention": _mamba2(mamba2_sizes(c)),
    }
    experts, shared = c.count("num_local_experts"), c.size("shared_intermediate_size")
    activation = c.word("hidden_act")

    def feed(b: BlockBuilder, x: Tensor) -> Tensor:
        inner = b.part("shared_mlp", "feed_forward")
        gate, up = inner.split(inner.linear(x, "input_linear", 2 * shared), shared, shared)
        product = inner.multiply(inner.activation(gate, activation), up)
        out = inner.linear(product, "output_linear", x.width, split="row")
        if not experts:
            return out
        e = blocks.Experts(
            experts, c.size("num_experts_per_tok"), c.size("intermediate_size"), activation
        )
        routed = b.part("block_sparse_moe", "experts")
        return b.add(blocks.routed_experts(routed, x, e, router="router"), out)

    if not experts:
        c.ignore("intermediate_size", "num_experts_per_tok")
    names = ("input_layernorm", "post_attention_layernorm")
    pattern = layer_types(c, layers, lambda i: "linear_attention", known=MIXERS)
    return pattern, lambda kind: _layer(kind, c, mixers[kind], feed, names=names, scaled=True)


LINEAGE: dict[str, Callable[[Config, int], tuple[Pattern, LayerOf]]] = {
    "jamba": jamba,
    "bamba": bamba,
    "falcon_h1": falcon_h1,
    "granitemoehybrid": granitemoehybrid,
}
