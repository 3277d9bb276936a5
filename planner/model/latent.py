"""Multi-head latent attention (DeepSeek-V2): keys and values from one narrow projection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from planner.model import counted
from planner.model.builder import BlockBuilder
from planner.model.operations import Tensor, Weight


@dataclass(frozen=True, slots=True)
class LatentHeads:
    """The widths of multi-head latent attention; q_rank None: queries straight from x.

    stored_query_dim   width of each head's queries as made, where the config has it apart
    """

    heads: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    kv_rank: int
    q_rank: int | None
    stored_query_dim: int | None = None

    @property
    def query_dim(self) -> int:
        return self.nope_dim + self.rope_dim


@dataclass(frozen=True, slots=True)
class Indexer:
    """The light attention that picks which keys each query sees (DeepSeek-V3.2); never trained.

    pooled   so many keys are joined into one by learned gates (GLM-5 next)
    scaled   its query is normed first, and each head's scores have a scale and a bias of their own
             (Mistral Large 4)
    """

    heads: int
    head_dim: int
    pooled: int = 0
    scaled: bool = False

    def record(self, b: BlockBuilder, x: Tensor, latent_query: Tensor) -> None:
        inner = b.part("indexer")
        weights = [
            *counted.linear(inner, "wq_b", latent_query.width, self.heads * self.head_dim),
            *counted.linear(inner, "wk", x.width, self.head_dim),
            *counted.norm(inner, "k_norm", self.head_dim, bias=True),
            *counted.linear(inner, "weights_proj", x.width, self.heads),
        ]
        if self.pooled:
            ape = (self.pooled, self.head_dim)
            weights.append(inner.weight("index_kpool_compress_ape", *ape, kind="vector"))
            weights.append(inner.weight("index_kpool_compress_gate", self.head_dim, x.width))
        if self.scaled:
            weights += counted.norm(inner, "q_input_norm", latent_query.width, bias=True)
            weights += head_scaling(inner, self.heads)
        matrices = sum(w.elements for w in weights if w.kind == "matrix")
        inner.opaque("", 0, weights, (x, latent_query), flops_per_token=2 * matrices)


def head_scaling(b: BlockBuilder, heads: int) -> list[Weight]:
    """A learned scale and bias of each head's scores."""
    return [b.weight(f"softmax_scaling.{name}", heads) for name in ("scale", "bias")]


@dataclass(frozen=True, slots=True)
class LatentStyle:
    """What families change in it.

    rotary         how pairs of channels are rotated
    indexer        picks the keys
    gate           name of a linear of x whose sigmoid multiplies the output;
                   gate_heads: one gate a head
    rope_norm      name of a norm of the rotated part of the keys
    joint_gate     name of the linear that makes queries and that gate from the latent query
    sinks          a learned score per head takes part in the softmax
    scaled         latent queries and keys are multiplied by constants (LongCat)
    """

    rotary: str = "half"
    indexer: Indexer | None = None
    gate: str | None = None
    gate_heads: bool = False
    rope_norm: str | None = None
    joint_gate: str | None = None
    sinks: bool = False
    scaled: bool = False


PLAIN = LatentStyle()


def latent_attention(
    b: BlockBuilder,
    x: Tensor,
    h: LatentHeads,
    style: LatentStyle = PLAIN,
    *,
    bias: bool = False,
    window: int | None = None,
    **facts: Any,
) -> Tensor:
    """Queries, latent keys and values, attention and the output linear."""
    gate_width = h.heads if style.gate_heads else h.heads * h.value_dim
    gate = b.linear(x, style.gate, gate_width) if style.gate else None
    latent, q, joint = queries(b, x, h, style, bias)
    q_nope, q_rope = b.split(q, h.heads * h.nope_dim, h.heads * h.rope_dim)
    kv = b.linear(x, "kv_a_proj_with_mqa", h.kv_rank + h.rope_dim, bias=bias, split="whole")
    kv, k_rope = b.split(kv, h.kv_rank, h.rope_dim)
    kv = b.rms_norm(kv, "kv_a_layernorm")
    if style.scaled:
        q_nope, q_rope, kv = b.scale(q_nope), b.scale(q_rope), b.scale(kv)
    if style.rope_norm is not None:
        k_rope = b.rms_norm(k_rope, style.rope_norm)
    q_rope = b.rotary(q_rope, heads=h.heads, style=style.rotary)
    k_rope = b.rotary(k_rope, heads=1, style=style.rotary)
    q = b.concatenate(q_nope, q_rope)
    kv = b.linear(kv, "kv_b_proj", h.heads * (h.nope_dim + h.value_dim))
    k_nope, v = b.split(kv, h.heads * h.nope_dim, h.heads * h.value_dim)
    k = b.concatenate(k_nope, k_rope, width=h.heads * h.query_dim)
    if style.indexer is not None and latent is not None:
        style.indexer.record(b, x, latent)
    if style.sinks:
        facts["sinks"] = "joined"
    out = b.attention(
        q,
        k,
        v,
        heads=h.heads,
        kv_heads=h.heads,
        window=window,
        weights=(b.weight("sinks", h.heads, split="column"),) if style.sinks else (),
        **facts,
    )
    gate = joint if gate is None else gate
    if gate is not None:
        out = b.multiply(out, b.activation(gate, "sigmoid"))
    return b.linear(out, "o_proj", x.width, bias=bias, split="row")


def queries(
    b: BlockBuilder, x: Tensor, h: LatentHeads, style: LatentStyle, bias: bool
) -> tuple[Tensor | None, Tensor, Tensor | None]:
    """The latent query, the queries, and the gate where one linear makes both."""
    width = h.heads * (h.stored_query_dim or h.query_dim)
    if h.q_rank is None:
        return None, b.linear(x, "q_proj", width), None
    narrow = b.linear(x, "q_a_proj", h.q_rank, bias=bias, split="whole")
    latent = b.rms_norm(narrow, "q_a_layernorm")
    if style.joint_gate is None:
        return latent, b.linear(latent, "q_b_proj", width), None
    both = b.concatenate(latent, narrow)
    made = b.linear(both, style.joint_gate, width + h.heads * h.value_dim)
    q, gate = b.split(made, width, h.heads * h.value_dim)
    return latent, q, gate
