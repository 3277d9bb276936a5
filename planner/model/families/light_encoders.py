"""Encoders that make BERT cheaper: MobileBERT, SqueezeBERT, ConvBERT, FNet and Funnel.

Only their masked language models are here.
"""

from __future__ import annotations

from dataclasses import dataclass

from planner.model import counted
from planner.model.assemble import MOST_LAYERS, assemble, composite, layers_of
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.convolution import convolution
from planner.model.families.bert_embeddings import token_positions
from planner.model.families.bert_heads import PARTS, transform, vocabulary
from planner.model.operations import Block, Tensor, Weight
from planner.model.spec import ModelSpec, Placed

NOT_MODELLED = "the tensors that its layers keep for the backward pass are not modelled"


def build(c: Config) -> ModelSpec:
    families = {
        "mobilebert": mobilebert,
        "squeezebert": squeezebert,
        "convbert": convbert,
        "fnet": fnet,
        "funnel": funnel,
    }
    return families[c.model_type](c)


def embedded(b: BlockBuilder, c: Config, words: int, others: int) -> Tensor:
    """Tokens of width `words`, positions and segments of width `others`; not yet joined."""
    x = b.embedding("word_embeddings", c.size("vocab_size"), words)
    token_positions(b, x, c.size("max_position_embeddings"), others)
    rows = c.size("type_vocab_size")
    b.add(x, b.embedding("token_type_embeddings", rows, others, split="whole"))
    return x


def masked_head(c: Config, width: int, prefix: str, pooler: str | None = None) -> Block:
    """BERT's head, whose matrix is the embedding's unless tie_word_embeddings is false."""
    b = BlockBuilder("head", width)
    h = b.part("", "output_head")
    if pooler is not None:
        h.activation(h.linear(b.input, pooler, width, bias=True, split="whole"), "tanh")
    x = transform(h, b.input, *PARTS["cls"], c.word("hidden_act"))
    table = f"{prefix}.embeddings.word_embeddings.weight"
    vocabulary(
        h,
        x,
        c.size("vocab_size"),
        "cls.predictions.decoder",
        tied_to=table if c.flag("tie_word_embeddings") else None,
        shared_bias="cls.predictions.bias",
    )
    return b.block()


def assembled(
    c: Config, width: int, embedding: Block, layer: Block, head: Block, where: str
) -> ModelSpec:
    return assemble(
        c,
        hidden_size=width,
        embedding=embedding,
        blocks={"encoder": layer},
        pattern=("encoder",) * layers_of(c),
        head=head,
        layer_prefix=where,
        not_trainable_because=NOT_MODELLED,
    )


# ---- MobileBERT: narrow layers between wide ones -------------------------------------------------


def mobilebert(c: Config) -> ModelSpec:
    """Tokens are seen with their neighbours; norms are a factor and an addend, or layer norms."""
    c.ignore("classifier_activation", "true_hidden_size")
    c.one_of("normalization_type", ("no_norm", "layer_norm"))
    width, narrow = c.size("hidden_size"), c.size("embedding_size")
    c.require(narrow <= width, "embedding_size", f"at most hidden_size = {width}")
    b = BlockBuilder("embedding", 0)
    e = b.part("mobilebert.embeddings", "embedding")
    x = embedded(e, c, narrow, width)
    neighbours = 3 if c.flag("trigram_input") else 1
    x = e.opaque("neighbours", narrow * neighbours, (), (x,))
    x = e.linear(x, "embedding_transformation", width, bias=True, split="whole")
    e.layer_norm(x, "LayerNorm")
    layer = mobilebert_layer(c, width)
    h = BlockBuilder("head", width)
    head, vocab = h.part("", "output_head"), c.size("vocab_size")
    x = transform(head, h.input, *PARTS["cls"], c.word("hidden_act"))
    # the embedding's matrix, and rows of its own for the width that it lacks
    rest = head.weight("cls.predictions.dense.weight", width - narrow, vocab)
    flops = 2 * vocab * (width - narrow)
    head.opaque("rest", vocab, (rest,), (x,), flops_per_token=flops)
    vocabulary(
        head,
        h.make(narrow),
        vocab,
        "cls.predictions.decoder",
        tied_to="mobilebert.embeddings.word_embeddings.weight"
        if c.flag("tie_word_embeddings")
        else None,
        shared_bias="cls.predictions.bias",
    )
    where = "mobilebert.encoder.layer.{}."
    return assembled(c, width, b.block(), layer, h.block(), where)


def mobilebert_layer(c: Config, width: int) -> Block:
    """Everything but the values runs at the narrow width, where there is a bottleneck."""
    bottleneck, activation = c.flag("use_bottleneck"), c.word("hidden_act")
    inside = c.size("intra_bottleneck_size") if bottleneck else width
    inner, heads = c.size("intermediate_size"), c.size("num_attention_heads")
    c.require(inside % heads == 0, "num_attention_heads", f"a divisor of {inside}")
    shared, narrow_values = (
        c.flag("key_query_shared_bottleneck"),
        c.flag("use_bottleneck_attention"),
    )
    b = BlockBuilder("encoder", width)

    def dense(p: BlockBuilder, x: Tensor, name: str, size: int) -> Tensor:
        q = p.part(name)
        return q.layer_norm(q.linear(x, "dense", size, bias=True), "LayerNorm")

    x = asked = b.input
    if bottleneck:
        x = asked = dense(b.part("bottleneck"), b.input, "input", inside)
        if shared:
            asked = dense(b.part("bottleneck"), b.input, "attention", inside)
    a, f = b.part("attention", "attention"), b.part("", "feed_forward")
    values = asked if narrow_values else b.input
    pairs = (("query", asked), ("key", asked), ("value", values))
    q, k, v = (a.linear(y, f"self.{name}", inside, bias=True) for name, y in pairs)
    out = a.attention(q, k, v, heads=heads, kv_heads=heads, causal=False)
    x = b.add(x, dense(a, out, "output", inside))
    for i in range(c.size("num_feedforward_networks") - 1):
        p = f.part(f"ffn.{i}")
        y = p.activation(p.linear(x, "intermediate.dense", inner, bias=True), activation)
        x = b.add(x, dense(p, y, "output", inside))
    y = f.activation(f.linear(x, "intermediate.dense", inner, bias=True), activation)
    x = b.add(x, dense(f, y, "output", inside))
    if bottleneck:
        b.add(b.input, dense(f, x, "output.bottleneck", width))
    return b.block()


# ---- SqueezeBERT: grouped convolutions in place of linears ---------------------------------------


def squeezebert(c: Config) -> ModelSpec:
    width, inner = c.size("hidden_size"), c.size("intermediate_size")
    same = c.size("embedding_size") == width
    c.require(same, "embedding_size", f"hidden_size = {width}")
    c.divides("hidden_size", "num_attention_heads")
    heads = c.size("num_attention_heads")
    b = BlockBuilder("embedding", 0)
    e = b.part("transformer.embeddings", "embedding")
    e.layer_norm(embedded(e, c, width, width), "LayerNorm")
    layer = BlockBuilder("encoder", width)

    def grouped(p: BlockBuilder, x: Tensor, name: str, field: str, outputs: int) -> Tensor:
        groups = c.size(f"{field}_groups")
        fits = x.width % groups == 0 == outputs % groups
        c.require(fits, f"{field}_groups", f"a divisor of {x.width} and {outputs}")
        return convolution(p, x, name, x.width, outputs, (1,), groups=groups, bias=True)

    a, f = layer.part("attention", "attention"), layer.part("", "feed_forward")
    q, k, v = (grouped(a, layer.input, name, name[0], width) for name in ("query", "key", "value"))
    out = a.attention(q, k, v, heads=heads, kv_heads=heads, causal=False)
    a = layer.part("post_attention", "attention")
    y = grouped(a, out, "conv1d", "post_attention", width)
    x = a.layer_norm(layer.add(layer.input, y), "layernorm")
    y = grouped(f, x, "intermediate.conv1d", "intermediate", inner)
    y = grouped(f, f.activation(y, c.word("hidden_act")), "output.conv1d", "output", width)
    f.layer_norm(layer.add(x, y), "output.layernorm")
    head = masked_head(c, width, "transformer", "transformer.pooler.dense")
    where = "transformer.encoder.layers.{}."
    return assembled(c, width, b.block(), layer.block(), head, where)


# ---- ConvBERT: half of the heads are convolutions made from the text -----------------------------


def convbert(c: Config) -> ModelSpec:
    c.require(not c.flag("add_cross_attention"), "add_cross_attention", "false")
    c.ignore("is_decoder")
    width, narrow = c.size("hidden_size"), c.size("embedding_size")
    b = BlockBuilder("embedding", 0)
    outer = b.part("convbert", "embedding")
    e = outer.part("embeddings")
    x = e.layer_norm(embedded(e, c, narrow, narrow), "LayerNorm")
    if narrow != width:
        outer.linear(x, "embeddings_project", width, bias=True, split="whole")
    layer = convbert_layer(c, width)
    h = BlockBuilder("head", width)
    head, name = h.part("", "output_head"), "generator_predictions"
    x = transform(head, h.input, f"{name}.dense", f"{name}.LayerNorm", "gelu", narrow)
    table = "convbert.embeddings.word_embeddings.weight"
    tied = table if c.flag("tie_word_embeddings") else None
    vocabulary(head, x, c.size("vocab_size"), "generator_lm_head", tied_to=tied)
    where = "convbert.encoder.layer.{}."
    return assembled(c, width, b.block(), layer, h.block(), where)


def convbert_layer(c: Config, width: int) -> Block:
    heads = max(c.size("num_attention_heads") // c.size("head_ratio"), 1)
    c.require(width % heads == 0, "num_attention_heads", f"heads that divide {width}: {heads}")
    kernel, inside = c.size("conv_kernel_size"), heads * (width // heads // 2)
    b = BlockBuilder("encoder", width)
    a, x = b.part("attention", "attention"), b.input
    q, k, v = (a.linear(x, f"self.{name}", inside, bias=True) for name in ("query", "key", "value"))
    s = a.part("self")
    y = convolution(s, x, "key_conv_attn_layer.depthwise", width, width, (kernel,), groups=width)
    y = convolution(s, y, "key_conv_attn_layer.pointwise", width, inside, (1,))
    y = s.opaque("bias", inside, (s.weight("key_conv_attn_layer.bias", inside, 1),), (y,))
    made = s.linear(s.multiply(y, q), "conv_kernel_layer", heads * kernel, bias=True)
    told = s.linear(x, "conv_out_layer", inside, bias=True)
    # each position's kernel runs over its neighbours
    told = s.opaque("convolve", inside, (), (made, told), flops_per_token=2 * inside * kernel)
    out = a.attention(q, k, v, heads=heads, kv_heads=heads, causal=False)
    both = a.opaque("both", width, (), (out, told))
    y = a.linear(both, "output.dense", width, bias=True, split="row")
    x = a.layer_norm(b.add(x, y), "output.LayerNorm")
    f, inner = b.part("", "feed_forward"), c.size("intermediate_size")
    y = f.activation(grouped_linear(c, f, x, "intermediate.dense", inner), c.word("hidden_act"))
    f.layer_norm(b.add(x, grouped_linear(c, f, y, "output.dense", width)), "output.LayerNorm")
    return b.block()


def grouped_linear(c: Config, b: BlockBuilder, x: Tensor, name: str, outputs: int) -> Tensor:
    groups = c.size("num_groups")
    if groups == 1:
        return b.linear(x, name, outputs, bias=True)
    fits = x.width % groups == 0 == outputs % groups
    c.require(fits, "num_groups", f"a divisor of {x.width} and {outputs}")
    weight = b.weight(f"{name}.weight", groups, x.width // groups, outputs // groups)
    weights = (weight, b.weight(f"{name}.bias", outputs))
    return b.opaque(name, outputs, weights, (x,), flops_per_token=2 * weight.elements)


# ---- FNet: a Fourier transform in place of attention ---------------------------------------------


def fnet(c: Config) -> ModelSpec:
    c.ignore("use_tpu_fourier_optimizations", "tpu_short_seq_length")
    width, inner = c.size("hidden_size"), c.size("intermediate_size")
    b = BlockBuilder("embedding", 0)
    e = b.part("fnet.embeddings", "embedding")
    x = e.layer_norm(embedded(e, c, width, width), "LayerNorm")
    e.linear(x, "projection", width, bias=True, split="whole")
    layer = BlockBuilder("encoder", width)
    f = layer.part("", "feed_forward")
    y = layer.opaque("fourier", width, (), (layer.input,), group="attention")
    x = layer.layer_norm(layer.add(layer.input, y), "fourier.output.LayerNorm")
    y = f.activation(f.linear(x, "intermediate.dense", inner, bias=True), c.word("hidden_act"))
    y = f.linear(y, "output.dense", width, bias=True, split="row")
    f.layer_norm(layer.add(x, y), "output.LayerNorm")
    head = masked_head(c, width, "fnet", "fnet.pooler.dense")
    return assembled(c, width, b.block(), layer.block(), head, "fnet.encoder.layer.{}.")


# ---- Funnel: the text gets shorter from block to block, and a decoder stretches it again ---------


@dataclass(frozen=True)
class FunnelSizes:
    width: int
    heads: int
    head: int
    inner: int
    activation: str


def funnel(c: Config) -> ModelSpec:
    c.ignore("pooling_type", "attention_type", "separate_cls", "truncate_seq", "pool_q_only")
    s = FunnelSizes(
        c.size("d_model"),
        c.size("n_head"),
        c.size("d_head"),
        c.size("d_inner"),
        c.word("hidden_act"),
    )
    sizes = c.sizes("block_sizes") or ()
    repeats = c.sizes("block_repeats") or (1,) * len(sizes)
    c.require(len(repeats) == len(sizes), "block_repeats", f"{len(sizes)}, one per block")
    runs = sum(size * times for size, times in zip(sizes, repeats, strict=True))
    c.require(0 < runs <= MOST_LAYERS, "block_sizes", f"at most {MOST_LAYERS} layers")
    b = BlockBuilder("embedding", 0)
    e, vocab = b.part("funnel.embeddings", "embedding"), c.size("vocab_size")
    e.layer_norm(e.embedding("word_embeddings", vocab, s.width), "layer_norm")
    layer, places = funnel_layer(s), []
    for i, (size, times) in enumerate(zip(sizes, repeats, strict=True)):
        for j in range(size):
            for again in range(max(times, 1)):  # the same layer several times
                name = f"funnel.encoder.blocks.{i}.{j}."
                places.append(Placed(name, layer, weights_of=name if again else None))
    count = c.count("num_decoder_layers")
    places += [Placed(f"funnel.decoder.layers.{i}.", layer) for i in range(count)]
    h = BlockBuilder("head", s.width)
    table = "funnel.embeddings.word_embeddings.weight"
    tied = table if c.flag("tie_word_embeddings") else None
    vocabulary(h.part("", "output_head"), h.input, vocab, "lm_head", tied_to=tied)
    return composite(
        c,
        hidden_size=s.width,
        embedding=b.block(),
        layers=places,
        head=h.block(),
        not_trainable_because=NOT_MODELLED,
    )


def funnel_layer(s: FunnelSizes) -> Block:
    """Relative attention (Transformer-XL's), then the feed-forward part; norms after each."""
    inside, shape = s.heads * s.head, (s.heads, s.head)
    b = BlockBuilder("layer", s.width)
    a, f = b.part("attention", "attention"), b.part("ffn", "feed_forward")
    weights: list[Weight] = [
        *(a.weight(f"r_{name}_bias", *shape, kind="vector") for name in "wrs"),
        a.weight("r_kernel", s.width, *shape, kind="matrix"),
        a.weight("seg_embed", 2, *shape, kind="vector"),
        *counted.linear(a, "q_head", s.width, inside),
        *counted.linear(a, "k_head", s.width, inside, bias=True),
        *counted.linear(a, "v_head", s.width, inside, bias=True),
        *counted.linear(a, "post_proj", inside, s.width, bias=True),
    ]
    y = counted.module(a, "", s.width, weights, b.input)
    x = a.layer_norm(b.add(b.input, y), "layer_norm")
    y = f.activation(f.linear(x, "linear_1", s.inner, bias=True), s.activation)
    y = f.linear(y, "linear_2", s.width, bias=True, split="row")
    f.layer_norm(b.add(x, y), "layer_norm")
    return b.block()
