"""The decoder that most language models are: the forward pass of a family's row of traits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from planner.model import blocks
from planner.model.assemble import layers_of, llama_shaped, rotary_fraction
from planner.model.blocks import HeadNorm, Heads
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.latent import Indexer, LatentHeads, latent_attention
from planner.model.operations import Block, Tensor
from planner.model.patterns import SHARED_INDEX
from planner.model.routing import routed_feed_forward, sparse_layers
from planner.model.spec import ModelSpec
from planner.model.traits import Attention, FeedForward, Gate, Latent, Step, Switch, Traits, Variant


def switch(c: Config, value: Switch) -> bool:
    return value if isinstance(value, bool) else c.flag(value)


def build(c: Config, t: Traits) -> ModelSpec:
    """The model of a family's row and a config."""
    c.ignore(*t.ignored)
    if t.routing is not None:
        c.ignore(t.feed_forward.width)  # a model may have no dense layer
    layers = layers_of(c)
    kinds = t.kinds(c, layers)
    sparse = sparse_layers(c, t.routing, layers)
    if t.routing is not None and not any(sparse):
        c.ignore(*t.routing.fields)  # nor any with experts
    heads = no_heads if t.attention.latent else t.attention.heads
    variants = tuple(
        Variant(kind, t.attention.rotates(c, i, kind), sparse[i], heads(c, i, kind))
        for i, kind in enumerate(kinds)
    )
    distinct = {v: layer_block(c, t, v) for v in dict.fromkeys(variants)}
    capped = t.capped is not None and c.has(t.capped)
    return llama_shaped(
        c,
        {v.name: block for v, block in distinct.items()},
        tuple(v.name for v in variants),
        rows=c.size("vocab_size") + t.extra_rows,
        outputs=c.optional(t.outputs) if t.outputs else None,
        norm=t.norm,
        final_norm=t.final_norm,
        embedded=t.embedded,
        before_head=t.before_head,
        logits=(lambda b, x: b.softcap(x)) if capped else t.logits,
        head_bias=switch(c, t.head_bias),
        tied=t.tied,
        not_trainable_because=t.not_trainable_because,
    )


def no_heads(c: Config, i: int, kind: str) -> Heads:
    """Latent attention has heads of its own."""
    return Heads(c.size("num_attention_heads"), 1, 1)


def layer_block(c: Config, t: Traits, v: Variant) -> Block:
    b = BlockBuilder(v.name, c.size("hidden_size"))
    mixer, feed = attention_part(c, t.attention, v), feed_forward_part(c, t, v.sparse)
    extra: dict[str, Any] = {"names": t.norms} if t.norms else {}
    if t.scaled:
        extra["scaled"] = True
    t.join(b, t.norm, mixer, feed, **extra)
    return b.block()


@dataclass(frozen=True)
class Resolved:
    """An Attention with the config's numbers in it, for layers of one variant."""

    traits: Attention
    kind: str
    h: Heads
    width: int
    window: int | None
    bias: bool
    output_bias: bool
    head_norm: HeadNorm | None
    rotary: float
    clipped: bool
    scaled_value: bool
    gate_bias: bool
    sinks: bool
    facts: dict[str, Any]


def resolve(c: Config, a: Attention, v: Variant) -> Resolved:
    h, width = v.heads, c.size("hidden_size")
    if a.square:
        wanted = f"hidden_size / heads = {width} / {h.heads}"
        c.runs_only_if(h.q_width == width, "head_dim", wanted)
    share = rotary_fraction(c, *a.rotary_fields, kind=v.kind) if a.rotary == "partial" else 1.0
    sinks = v.kind in a.sinks
    facts: dict[str, Any] = {"causal": a.causal(c)}
    if a.softcap is not None and c.has(a.softcap):
        facts["softcap"] = True
    if a.sinks:
        facts["sinks"] = a.sink_style if sinks else f"{a.sink_style} without"
    return Resolved(
        a,
        v.kind,
        h,
        width,
        window=c.optional("sliding_window") if v.kind == "sliding_attention" else None,
        bias=switch(c, a.bias),
        output_bias=switch(c, a.output_bias),
        head_norm=a.head_norm if switch(c, a.head_norm_if) else None,
        rotary=share if v.rotated and a.rotary != "none" else 0.0,
        clipped=a.clip is not None and c.has(a.clip),
        scaled_value=a.scaled_value is not None and c.has(a.scaled_value),
        gate_bias=a.gate is not None and switch(c, a.gate.bias),
        sinks=sinks,
        facts=facts,
    )


def attention_part(c: Config, a: Attention, v: Variant) -> Step:
    if a.latent is not None:
        return latent_part(c, a, a.latent, v.kind)
    r = resolve(c, a, v)

    def part(outer: BlockBuilder, x: Tensor) -> Tensor:
        b = outer.part(a.part, "attention")
        q, k, value = projections(b, x, r)
        q, k = positioned(b, q, k, r)
        out = b.attention(
            q,
            k,
            value,
            heads=r.h.heads,
            kv_heads=r.h.kv_heads,
            window=r.window,
            weights=(b.weight("sinks", r.h.heads, split="column"),) if r.sinks else (),
            **r.facts,
        )
        if a.gate is not None:
            out = gated(b, x, out, a.gate, r)
        if a.square and out.width != r.width:
            out = b.opaque("heads", r.width, (), (out,))
        if a.output_norm is not None:
            out = b.rms_norm(out, a.output_norm)
        return b.linear(out, a.names[3], r.width, bias=r.output_bias, split="row")

    return part


def projections(b: BlockBuilder, x: Tensor, r: Resolved) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values before their norms and positions."""
    a, h = r.traits, r.h
    if a.fused is not None:
        fused = b.linear(x, a.fused, h.q_width + h.kv_width + h.value_width, bias=r.bias)
        q, k, v = b.split(fused, h.q_width, h.kv_width, h.value_width)
    else:
        q = b.linear(x, a.names[0], h.q_width, bias=r.bias)
        k = b.linear(x, a.names[1], h.kv_width, bias=r.bias)
        v = b.linear(x, a.names[2], h.value_width, bias=r.bias)
    if r.clipped:
        q, k, v = (b.activation(y, "clamp_") for y in (q, k, v))
    return q, k, b.scale(v) if r.scaled_value else v


def positioned(b: BlockBuilder, q: Tensor, k: Tensor, r: Resolved) -> tuple[Tensor, Tensor]:
    """Queries and keys normed and rotated, in the family's order."""
    steps = [rotated, head_normed] if r.traits.norm_last else [head_normed, rotated]
    for step in steps:
        q, k = step(b, q, k, r)
    return (b.scale(q) if r.traits.scaled_query else q), k


def head_normed(b: BlockBuilder, q: Tensor, k: Tensor, r: Resolved) -> tuple[Tensor, Tensor]:
    if r.head_norm is None:
        return q, k
    q_name, k_name = r.traits.head_norm_names
    return r.head_norm(b, q, q_name, r.h.heads), r.head_norm(b, k, k_name, r.h.kv_heads)


def rotated(b: BlockBuilder, q: Tensor, k: Tensor, r: Resolved) -> tuple[Tensor, Tensor]:
    if not r.rotary:
        return q, k
    facts: dict[str, Any] = {
        "fraction": r.rotary,
        "style": r.traits.rotary_style,
        "own_tables": r.kind if r.traits.rotary_by_kind else None,
    }
    return b.rotary(q, heads=r.h.heads, **facts), b.rotary(k, heads=r.h.kv_heads, **facts)


def gated(b: BlockBuilder, x: Tensor, out: Tensor, gate: Gate, r: Resolved) -> Tensor:
    width = r.h.heads if gate.each == "head" else out.width
    value = b.linear(x, gate.name, width, bias=r.gate_bias)
    if gate.head_bias is not None:
        value = b.add_bias(value, gate.head_bias, r.h.heads)
    return b.multiply(out, b.activation(value, gate.function))


def latent_heads(c: Config, direct_query: bool) -> LatentHeads:
    """direct_query: a null of q_lora_rank makes queries straight from x."""
    rank = c.optional("q_lora_rank")
    c.require(direct_query or rank is not None, "q_lora_rank", "a whole number")
    heads = c.size("num_attention_heads")
    nope, rope = c.size("qk_nope_head_dim"), c.count("qk_rope_head_dim")
    value = c.optional("v_head_dim") or c.divides("hidden_size", "num_attention_heads")
    c.ignore("num_key_value_heads", "head_dim", "qk_head_dim")
    return LatentHeads(heads, nope, rope, value, c.size("kv_lora_rank"), rank)


def latent_part(c: Config, a: Attention, latent: Latent, kind: str) -> Step:
    h, bias = latent_heads(c, latent.direct_query), switch(c, a.bias)
    rotary = latent.rotary
    if rotary is None:
        rotary = "interleave" if c.flag("rope_interleave", True) else "half"
    indexer = None
    if latent.indexed and not kind.endswith(SHARED_INDEX):
        indexer = Indexer(c.size("index_n_heads"), c.size("index_head_dim"))
    style = replace(latent.style, rotary=rotary, indexer=indexer)

    def part(outer: BlockBuilder, x: Tensor) -> Tensor:
        b = outer.part(a.part, "attention")
        return latent_attention(b, x, h, style, bias=bias)

    return part


def feed_forward_part(c: Config, t: Traits, sparse: bool) -> Step:
    f = t.feed_forward
    bias, activation = switch(c, f.bias), c.word(f.activation)
    if sparse and t.routing is not None:
        return routed_feed_forward(c, t.routing, bias=bias, activation=activation)
    inner = c.size(f.width) // (2 if f.halved else 1)

    def part(outer: BlockBuilder, x: Tensor) -> Tensor:
        b = outer.part(f.part, "feed_forward")
        return dense_feed_forward(b, x, f, inner, activation, bias)

    return part


def dense_feed_forward(
    b: BlockBuilder, x: Tensor, f: FeedForward, inner: int, activation: str, bias: bool
) -> Tensor:
    if f.form == "plain":
        first, second = f.names or ("up_proj", "down_proj")
        return blocks.feed_forward(
            b, x, intermediate_size=inner, activation=activation, bias=bias, names=(first, second)
        )
    if f.form == "fused":
        first, second = f.names or ("gate_up_proj", "down_proj")
        gate, up = b.split(b.linear(x, first, 2 * inner, bias=bias), inner, inner)
        product = b.multiply(up, b.activation(gate, activation))
        return b.linear(product, second, x.width, bias=bias, split="row")
    gate_name, up_name, down_name = f.names or blocks.GATE_UP_DOWN
    gate = b.activation(b.linear(x, gate_name, inner, bias=bias), activation)
    product = b.multiply(gate, b.linear(x, up_name, inner, bias=bias))
    if f.inner_norm is not None:
        product = b.rms_norm(product, f.inner_norm)
    return b.linear(product, down_name, x.width, bias=bias, split="row")
