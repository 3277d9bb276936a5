"""T5 and its kin: relative positions as a bias, RMS norms first, no biases in matrices.

Transformers ties the embedding to the head in every one of them, whatever tie_word_embeddings says
(Switch Transformers aside); the field then only decides on a scale.
"""

from __future__ import annotations

from dataclasses import dataclass

from planner.model import expert_operations
from planner.model.assemble import layers_of, rms
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.operations import Block, Tensor, Weight
from planner.model.spec import ModelSpec, Placed

NOT_MODELLED = "the tensors that an encoder-decoder keeps for its backward pass are not modelled"
SETTINGS = (
    *("relative_attention_max_distance", "is_decoder", "local_radius", "global_block_size"),
    *("is_gated_act", "dense_act_fn", "scale_decoder_outputs", "n_positions"),
    *("expert_capacity", "router_dtype", "router_ignore_padding_tokens", "add_router_probs"),
    *("num_sparse_encoder_layers", "num_sparse_decoder_layers"),
    *("encoder_sparse_step", "decoder_sparse_step", "tie_word_embeddings"),
    *("num_experts", "router_bias", "use_cache", "output_past"),
)
LONG = {"local": "LocalSelfAttention", "transient-global": "TransientGlobalSelfAttention"}


@dataclass(frozen=True)
class Shape:
    """Sizes that all layers share; `attention` names the encoder's self-attention."""

    width: int
    heads: int
    head_dim: int
    inner: int
    buckets: int
    activation: str
    gated: bool
    attention: str = "SelfAttention"

    @property
    def inside(self) -> int:
        return self.heads * self.head_dim


def build(c: Config) -> ModelSpec:
    s, vocab = shape(c), c.size("vocab_size")
    switch = c.model_type == "switch_transformers"
    tied = c.flag("tie_word_embeddings") if switch else True
    layers = layers_of(c, "num_layers")
    decoder_layers = c.size("num_decoder_layers", layers)
    b = BlockBuilder("embedding", 0)
    embedding = b.part("", "embedding")
    embedding.embedding("shared", vocab, s.width)
    if not tied:
        for name in ("encoder.embed_tokens", "decoder.embed_tokens"):
            embedding.embedding(name, vocab, s.width)
    placed = stack(c, s, "encoder", layers) + stack(c, s, "decoder", decoder_layers)
    h = BlockBuilder("head", s.width)
    out = h.part("", "output_head")
    table = "shared.weight" if tied else None
    out.cross_entropy(out.linear(h.input, "lm_head", vocab, split="vocabulary", tied_to=table))
    c.ignore(*SETTINGS)
    warnings = c.finish()
    return ModelSpec(
        name=c.model_type,
        model_type=c.model_type,
        hidden_size=s.width,
        embedding=Placed("", b.block()),
        layers=tuple(placed),
        head=Placed("", h.block()),
        config=c.given,
        assumed=c.assumed,
        warnings=warnings,
        not_trainable_because=NOT_MODELLED,
    )


def shape(c: Config) -> Shape:
    if c.model_type == "switch_transformers":
        activation, gated = c.word("dense_act_fn"), False
    else:
        kind = c.word("feed_forward_proj")
        gated, activation = kind.startswith("gated-"), kind.rsplit("-", 1)[-1]
        known = kind.count("-") == int(gated)
        c.require(known, "feed_forward_proj", "an activation, or gated- and an activation")
    attention = "SelfAttention"
    if c.model_type == "longt5":
        attention = LONG[c.one_of("encoder_attention_type", tuple(LONG))]
    return Shape(
        c.size("d_model"),
        c.size("num_heads"),
        c.size("d_kv"),
        c.size("d_ff"),
        c.size("relative_attention_num_buckets"),
        activation,
        gated,
        attention,
    )


def stack(c: Config, s: Shape, name: str, layers: int) -> list[Placed]:
    """The blocks of one stack and its last norm. Only the first block has a table of positions,
    but in UMT5."""
    sequence = "encoder" if name == "encoder" else "text"
    sparse_step = 0
    if c.model_type == "switch_transformers":
        sparse = c.count(f"num_sparse_{name}_layers")
        sparse_step = layers // sparse if sparse else layers
    everywhere = c.model_type == "umt5"
    kinds: dict[tuple[bool, bool], Block] = {}
    placed = []
    for i in range(layers):
        routed = sparse_step > 0 and (i % sparse_step == 1 or sparse_step == 1)
        kind = (i == 0 or everywhere, routed)
        if kind not in kinds:
            kinds[kind] = layer(c, s, name, sequence, *kind)
        placed.append(Placed(f"{name}.block.{i}.", kinds[kind]))
    last = BlockBuilder(f"{name} norm", s.width, sequence=sequence)
    rms(last, last.input, "final_layer_norm")
    return [*placed, Placed(f"{name}.", last.block())]


def layer(c: Config, s: Shape, name: str, sequence: str, table: bool, routed: bool) -> Block:
    decoder = name == "decoder"
    kind = f"{name}{' + experts' * routed}{' + positions' * table}"
    b = BlockBuilder(kind, s.width, sequence=sequence)
    own = "SelfAttention" if decoder else s.attention
    x = b.input
    inner = b.part("layer.0")
    y = attention(inner.part(own, "attention"), s, rms(inner, x, "layer_norm"), decoder, table)
    x = b.add(x, y)
    number = 1
    if decoder:
        inner = b.part("layer.1")
        cross = inner.part("EncDecAttention", "attention")
        y = cross_attention(cross, s, rms(inner, x, "layer_norm"))
        x = b.add(x, y)
        number = 2
    inner = b.part(f"layer.{number}")
    y = rms(inner, x, "layer_norm")
    y = experts(c, inner.part("mlp", "experts"), s, y) if routed else dense(c, inner, s, y)
    b.add(x, y)
    return b.block()


def attention(b: BlockBuilder, s: Shape, x: Tensor, causal: bool, table: bool) -> Tensor:
    q, k, v = (b.linear(x, name, s.inside) for name in "qkv")
    weights: list[Weight] = []
    if table:
        bias = (s.buckets, s.heads)
        weights.append(b.weight("relative_attention_bias.weight", *bias, kind="embedding"))
        if not causal and s.attention == LONG["transient-global"]:
            name = "global_relative_attention_bias.weight"
            weights.append(b.weight(name, *bias, kind="embedding"))
    if not causal and s.attention == LONG["transient-global"]:
        weights.append(b.weight("global_input_layer_norm.weight", s.width))
    out = b.attention(q, k, v, heads=s.heads, kv_heads=s.heads, causal=causal, weights=weights)
    return b.linear(out, "o", s.width, split="row")


def cross_attention(b: BlockBuilder, s: Shape, x: Tensor) -> Tensor:
    """Keys and values from the encoder's output, priced as if it were as long as the text."""
    encoded = b.opaque("encoder_hidden_states", s.width, ())
    q = b.linear(x, "q", s.inside)
    k, v = (b.linear(encoded, name, s.inside) for name in "kv")
    out = b.attention(q, k, v, heads=s.heads, kv_heads=s.heads, causal=False)
    return b.linear(out, "o", s.width, split="row")


def dense(c: Config, b: BlockBuilder, s: Shape, x: Tensor) -> Tensor:
    name = "mlp" if c.model_type == "switch_transformers" else "DenseReluDense"
    f = b.part(name, "feed_forward")
    if s.gated:
        y = f.activation(f.linear(x, "wi_0", s.inner), s.activation)
        y = f.multiply(y, f.linear(x, "wi_1", s.inner))
    else:
        y = f.activation(f.linear(x, "wi", s.inner), s.activation)
    return f.linear(y, "wo", s.width, split="row")


def experts(c: Config, b: BlockBuilder, s: Shape, x: Tensor) -> Tensor:
    """Switch: each token through one of the experts, whose matrices lie one by one."""
    count = c.size("num_experts")
    expert_operations.router(
        b, x, "router.classifier", experts=count, top_k=1, bias=c.flag("router_bias")
    )
    weights = [
        b.weight(f"experts.expert_{i}.{name}.weight", *dims, split="expert", used=(1, count))
        for i in range(count)
        for name, dims in (("wi", (s.inner, s.width)), ("wo", (s.width, s.inner)))
    ]
    return b.opaque("experts", s.width, weights, (x,), flops_per_token=4 * s.width * s.inner)
