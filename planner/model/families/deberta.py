"""DeBERTa and DeBERTa-v2/v3: attention over content and relative positions apart."""

from __future__ import annotations

from planner.model.assemble import assemble, layers_of
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.families.bert_embeddings import table
from planner.model.families.bert_heads import transform, vocabulary
from planner.model.heads import kind_of_head, labels
from planner.model.operations import Block, Tensor, Weight
from planner.model.spec import ModelSpec

HEADS = ("language", "bare", "sequences", "tokens", "spans")
NOT_MODELLED = "the tensors that disentangled attention keeps are not modelled"


def build(c: Config) -> ModelSpec:
    width, vocab = c.size("hidden_size"), c.size("vocab_size")
    c.divides("hidden_size", "num_attention_heads")
    c.ignore("pooler_hidden_act", "layer_norm_type", "conv_act")
    prefix = "" if kind_of_head(c) == "bare" else "deberta."
    return assemble(
        c,
        hidden_size=width,
        embedding=embeddings(c, prefix, vocab, width),
        blocks={"encoder": encoder_layer(c, width)},
        pattern=("encoder",) * layers_of(c),
        head=head(c, width, vocab),
        layer_prefix=f"{prefix}encoder.layer.{{}}.",
        not_trainable_because=NOT_MODELLED,
    )


def position_kinds(c: Config) -> tuple[str, ...]:
    given = c.raw("pos_att_type")
    if isinstance(given, str):
        return tuple(part.strip() for part in given.lower().split("|"))
    return c.words("pos_att_type") or ()


def relative_positions(c: Config) -> int:
    """How far relative positions reach, in rows of one direction."""
    given = c.raw("max_relative_positions")
    reach = given if isinstance(given, int) and given > 0 else c.size("max_position_embeddings")
    buckets = c.raw("position_buckets") if c.model_type == "deberta-v2" else None
    return buckets if isinstance(buckets, int) and buckets > 0 else reach


def embeddings(c: Config, prefix: str, vocab: int, width: int) -> Block:
    """Tokens, positions and segments; then the tables of the encoder as a whole."""
    b = BlockBuilder("embedding", 0)
    outer = b.part(prefix.rstrip("."), "embedding")
    e = outer.part("embeddings")
    narrow = c.size("embedding_size", width)
    x = e.embedding("word_embeddings", vocab, narrow)
    if c.flag("position_biased_input", True):
        x = table(e, x, "position_embeddings", c.size("max_position_embeddings"), narrow)
    segments = c.count("type_vocab_size")
    if segments:
        x = table(e, x, "token_type_embeddings", segments, narrow)
    if narrow != width:
        x = e.linear(x, "embed_proj", width, split="whole")
    x = e.layer_norm(x, "LayerNorm")
    encoder = outer.part("encoder")
    norms = [part.strip() for part in c.word("norm_rel_ebd", "none").lower().split("|")]
    kernel = c.count("conv_kernel_size", 0)
    weights: list[Weight] = []
    if c.flag("relative_attention"):
        rows = 2 * relative_positions(c)
        weights.append(encoder.weight("rel_embeddings.weight", rows, width, kind="embedding"))
    if c.model_type == "deberta-v2" and "layer_norm" in norms:
        weights += [encoder.weight(f"LayerNorm.{what}", width) for what in ("weight", "bias")]
    flops = 0
    if c.model_type == "deberta-v2" and kernel:
        shape = (width, width // c.size("conv_groups", 1), kernel)
        weights.append(encoder.weight("conv.conv.weight", *shape))
        weights.append(encoder.weight("conv.conv.bias", width))
        weights += [encoder.weight(f"conv.LayerNorm.{what}", width) for what in ("weight", "bias")]
        flops = 2 * shape[0] * shape[1] * shape[2]
    encoder.opaque("relative_positions", width, weights, (x,), flops_per_token=flops)
    return b.block()


def encoder_layer(c: Config, width: int) -> Block:
    b = BlockBuilder("encoder", width)
    inner, activation = c.size("intermediate_size"), c.word("hidden_act")
    x = attention(c, b.part("attention", "attention"), b.input)
    x = b.layer_norm(b.add(x, b.input), "attention.output.LayerNorm")
    f = b.part("", "feed_forward")
    y = f.activation(f.linear(x, "intermediate.dense", inner, bias=True), activation)
    y = f.linear(y, "output.dense", width, bias=True, split="row")
    b.layer_norm(b.add(y, x), "output.LayerNorm")
    return b.block()


def attention(c: Config, b: BlockBuilder, x: Tensor) -> Tensor:
    width, heads = x.width, c.size("num_attention_heads")
    a = b.part("self")
    weights: list[Weight] = []
    kinds = position_kinds(c) if c.flag("relative_attention") else ()
    if c.model_type == "deberta":
        q, k, v = a.split(a.linear(x, "in_proj", 3 * width), width, width, width)
        weights += [a.weight(name, width, split="column") for name in ("q_bias", "v_bias")]
        if c.flag("talking_head"):
            for name in ("head_logits_proj.weight", "head_weights_proj.weight"):
                weights.append(a.weight(name, heads, heads))
        if "c2p" in kinds:
            weights.append(a.weight("pos_proj.weight", width, width, split="column"))
        if "p2c" in kinds:
            weights += _biased(a, "pos_q_proj", width)
    else:
        names = ("query_proj", "key_proj", "value_proj")
        q, k, v = (a.linear(x, name, width, bias=True) for name in names)
        if not c.flag("share_att_key"):
            for kind, name in (("c2p", "pos_key_proj"), ("p2c", "pos_query_proj")):
                weights += _biased(a, name, width) if kind in kinds else []
    out = a.attention(q, k, v, heads=heads, kv_heads=heads, causal=False, weights=weights)
    return b.linear(out, "output.dense", width, bias=True, split="row")


def _biased(b: BlockBuilder, name: str, width: int) -> list[Weight]:
    return [
        b.weight(f"{name}.weight", width, width, split="column"),
        b.weight(f"{name}.bias", width, split="column"),
    ]


def head(c: Config, width: int, vocab: int) -> Block:
    kind = kind_of_head(c)
    b = BlockBuilder("head", width)
    h = b.part("", "output_head")
    tied, legacy = c.flag("tie_word_embeddings"), c.flag("legacy")
    pooler = c.size("pooler_hidden_size", width)
    table_name = "deberta.embeddings.word_embeddings.weight"
    if kind == "sequences":
        x = h.linear(b.input, "pooler.dense", pooler, bias=True, split="whole")
        x = h.activation(x, "gelu")
        h.linear(x, "classifier", labels(c), bias=True, split="whole")
    elif kind in ("tokens", "spans"):
        name = "classifier" if kind == "tokens" else "qa_outputs"
        h.linear(b.input, name, labels(c), bias=True, split="whole")
    elif kind == "language" and legacy:
        start, narrow = "cls.predictions.transform", c.size("embedding_size", width)
        activation = c.word("hidden_act")
        x = transform(h, b.input, f"{start}.dense", f"{start}.LayerNorm", activation, narrow)
        vocabulary(
            h,
            x,
            vocab,
            "cls.predictions.decoder",
            tied_to=table_name if tied else None,
            shared_bias="cls.predictions.bias",
        )
    elif kind == "language":  # scores against the embedding's own matrix, tied or not
        c.require(c.size("embedding_size", width) == width, "embedding_size", f"{width}")
        start = "lm_predictions.lm_head"
        x = transform(h, b.input, f"{start}.dense", f"{start}.LayerNorm", c.word("hidden_act"))
        name = f"{start}.decoder"
        vocabulary(h, x, vocab, name, tied_to=table_name, shared_bias=f"{start}.bias")
    return b.block()
