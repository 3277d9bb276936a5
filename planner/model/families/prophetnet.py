"""ProphetNet: an encoder, and a decoder that predicts several tokens ahead at each position."""

from __future__ import annotations

from planner.model.assemble import composite, layers_of
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.heads import architecture
from planner.model.operations import Block, Tensor, Weight
from planner.model.spec import ModelSpec, Placed

NOT_MODELLED = "the tensors that n-gram attention keeps for its backward pass are not modelled"
SETTINGS = ("relative_max_distance", "disable_ngram_loss", "eps", "is_decoder")


def build(c: Config) -> ModelSpec:
    c.ignore(*SETTINGS)
    width, vocab = c.size("hidden_size"), c.size("vocab_size")
    alone = architecture(c).endswith("ForCausalLM")
    tied = c.flag("tie_word_embeddings")
    layers = stack(c, width, "decoder")
    if alone:
        c.ignore("num_encoder_layers", "num_encoder_attention_heads", "encoder_ffn_dim")
    else:
        layers = [*stack(c, width, "encoder"), *layers]
    b = BlockBuilder("embedding", 0)
    e = b.part("prophetnet", "embedding")
    e.embedding("word_embeddings", vocab, width)
    if not tied:  # each stack has a table of its own
        for name in ("decoder",) if alone else ("encoder", "decoder"):
            e.embedding(f"{name}.word_embeddings", vocab, width)
    head = BlockBuilder("head", width)
    h = head.part("", "output_head")
    table = "prophetnet.word_embeddings.weight" if tied else None
    h.cross_entropy(h.linear(head.input, "lm_head", vocab, split="vocabulary", tied_to=table))
    return composite(
        c,
        hidden_size=width,
        embedding=b.block(),
        layers=layers,
        head=head.block(),
        not_trainable_because=NOT_MODELLED,
    )


def stack(c: Config, width: int, name: str) -> list[Placed]:
    prefix = f"prophetnet.{name}."
    sequence = "encoder" if name == "encoder" else "text"
    first = BlockBuilder(f"{name} positions", width, sequence=sequence)
    e = first.part("", "embedding")
    rows = c.size("max_position_embeddings")
    x = e.add(e.input, e.embedding("position_embeddings", rows, width, split="whole"))
    if name == "decoder":
        ngrams = c.size("ngram")
        x = e.add(x, e.embedding("ngram_embeddings", ngrams, width, split="whole"))
    e.layer_norm(x, "embeddings_layer_norm")
    block = layer(c, width, name, sequence)
    count = layers_of(c, f"num_{name}_layers")
    return [
        Placed(prefix, first.block()),
        *(Placed(f"{prefix}layers.{i}.", block) for i in range(count)),
    ]


def layer(c: Config, width: int, name: str, sequence: str) -> Block:
    heads, inner = c.size(f"num_{name}_attention_heads"), c.size(f"{name}_ffn_dim")
    c.divides("hidden_size", f"num_{name}_attention_heads")
    decoder = name == "decoder"
    b = BlockBuilder(name, width, sequence=sequence)
    own = b.part("self_attn", "attention")
    weights: tuple[Weight, ...] = ()
    if decoder:  # relative positions are made from the hidden states
        buckets = c.size("num_buckets") * heads
        where = "relative_pos_embeddings"
        table = own.weight(f"{where}.weight", buckets, width)
        weights = (table, own.weight(f"{where}.bias", buckets))
    y = attention(own, b.input, b.input, heads, decoder, weights)
    x = b.layer_norm(b.add(y, b.input), "self_attn_layer_norm")
    if decoder and c.flag("add_cross_attention"):
        cross = b.part("cross_attn", "attention")
        encoded = cross.opaque("encoder_hidden_states", width, ())
        y = attention(cross, x, encoded, heads, False, ())
        x = b.layer_norm(b.add(y, x), "cross_attn_layer_norm")
    f = b.part("feed_forward", "feed_forward")
    y = f.activation(f.linear(x, "intermediate", inner, bias=True), c.word("activation_function"))
    y = f.linear(y, "output", width, bias=True, split="row")
    b.layer_norm(b.add(y, x), "feed_forward_layer_norm")
    return b.block()


def attention(
    b: BlockBuilder, x: Tensor, other: Tensor, heads: int, causal: bool, weights: tuple[Weight, ...]
) -> Tensor:
    width = x.width
    q = b.linear(x, "query_proj", width, bias=True)
    k, v = (b.linear(other, f"{name}_proj", width, bias=True) for name in ("key", "value"))
    out = b.attention(q, k, v, heads=heads, kv_heads=heads, causal=causal, weights=weights)
    return b.linear(out, "out_proj", width, bias=True, split="row")
