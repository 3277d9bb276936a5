"""Llama 3.2 with vision (mllama): layers of cross-attention to the image between Llama's own."""

from __future__ import annotations

from planner.model import blocks
from planner.model.assemble import heads_of, layers_of, output_head, rms, token_embedding
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.families.towers import tower
from planner.model.families.vision_layers import NOT_MODELLED
from planner.model.heads import architecture
from planner.model.operations import Block, Tensor
from planner.model.spec import ModelSpec, Placed
from planner.model.wiring import pre_norm

# Where the family's configuration class puts cross-attention if the config names no layers.
CROSS_ATTENTION = (3, 8, 13, 18, 23, 28, 33, 38)

# Rows of the embedding beyond the vocabulary: the image token and its company have no logits.
EXTRA_ROWS = 8


def build(c: Config) -> ModelSpec:
    composite = c.model_type == "mllama"
    alone = not composite or architecture(c).endswith("ForCausalLM")
    text = c.sub("text_config") if composite else c
    prefix = "model" if alone else "model.language_model"
    width, vocab = text.size("hidden_size"), text.size("vocab_size")
    text.ignore("tie_word_embeddings")  # the embedding has more rows than the head
    places = text_layers(text, prefix)
    warnings: tuple[str, ...] = ()
    if alone:
        c.ignore("vision_config")
    else:
        vision = c.sub("vision_config")
        built = tower(c.sub("vision_config"), "model.vision_model.")
        b = BlockBuilder("projector", built.width, sequence="image")
        features = b.opaque("features", vision.size("vision_output_dim"), (), (b.input,))
        b.part("model", "other").linear(features, "multi_modal_projector", width, bias=True)
        places = [*built.places, Placed("", b.block()), *places]
        warnings = built.warnings
    c.ignore("tie_word_embeddings", "image_token_index")
    own = text.finish()
    return ModelSpec(
        name=c.model_type,
        model_type=c.model_type,
        hidden_size=width,
        embedding=Placed("", token_embedding(vocab + EXTRA_ROWS, width, prefix=prefix)),
        layers=tuple(places),
        head=Placed("", output_head(width, vocab, norm_name=f"{prefix}.norm")),
        config=c.given,
        assumed=c.assumed,
        warnings=(*warnings, *own, *(c.finish() if composite else ())),
        not_trainable_because=NOT_MODELLED,
    )


def text_layers(c: Config, prefix: str) -> list[Placed]:
    given = c.sizes("cross_attention_layers")
    cross = CROSS_ATTENTION if given is None else given
    kinds = {False: self_attention_layer(c), True: cross_attention_layer(c)}
    return [Placed(f"{prefix}.layers.{i}.", kinds[i in cross]) for i in range(layers_of(c))]


def feed_forward(c: Config, b: BlockBuilder, x: Tensor) -> Tensor:
    return blocks.gated_feed_forward(
        b.part("mlp", "feed_forward"),
        x,
        intermediate_size=c.size("intermediate_size"),
        activation=c.word("hidden_act"),
    )


def self_attention_layer(c: Config) -> Block:
    h = heads_of(c)
    b = BlockBuilder("self attention", c.size("hidden_size"))
    pre_norm(
        b,
        rms,
        lambda b, x: blocks.grouped_query_attention(b.part("self_attn", "attention"), x, h),
        lambda b, x: feed_forward(c, b, x),
    )
    return b.block()


def cross_attention_layer(c: Config) -> Block:
    """Queries from the text, keys and values from the image; a gate on each branch."""
    h, width = heads_of(c), c.size("hidden_size")
    b = BlockBuilder("cross attention", width)
    a = b.part("cross_attn", "attention")
    x = rms(b, b.input, "input_layernorm")
    image = a.opaque("cross_attention_states", width, ())
    q = a.rms_norm(a.linear(x, "q_proj", h.q_width), "q_norm", heads=h.heads)
    k = a.rms_norm(a.linear(image, "k_proj", h.kv_width), "k_norm", heads=h.kv_heads)
    v = a.linear(image, "v_proj", h.kv_width)
    out = a.attention(q, k, v, heads=h.heads, kv_heads=h.kv_heads, causal=False)
    x = b.add(b.input, gated(b, a.linear(out, "o_proj", width, split="row"), "attn"))
    y = feed_forward(c, b, rms(b, x, "post_attention_layernorm"))
    b.add(x, gated(b, y, "mlp"))
    return b.block()


def gated(b: BlockBuilder, x: Tensor, branch: str) -> Tensor:
    name = f"cross_attn_{branch}_gate"
    return b.opaque(name, x.width, (b.weight(name, 1),), (x,), group="other")
