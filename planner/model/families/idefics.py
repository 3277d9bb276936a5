"""IDEFICS: gated layers of cross-attention to the image before Llama's own."""

from __future__ import annotations

from planner.model import blocks
from planner.model.assemble import composite, layers_of, rms
from planner.model.blocks import Heads
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.families.towers import tower
from planner.model.families.vision_layers import NOT_MODELLED, learned
from planner.model.operations import Block, Tensor
from planner.model.spec import ModelSpec, Placed
from planner.model.wiring import pre_norm

HEADS = ("language",)
SETTINGS = (
    *("freeze_text_layers", "freeze_text_module_exceptions", "freeze_lm_head"),
    *("freeze_vision_layers", "freeze_vision_module_exceptions", "alphas_initializer_range"),
    *("alpha_initializer", "cross_layer_activation_function"),
)
# The resampler's feed-forward part is so many times as wide as its input.
RESAMPLER_WIDENING = 4
EMBEDDING = "model.embed_tokens.weight"
EXTRA = "model.embed_tokens.additional_embedding.weight"


def build(c: Config) -> ModelSpec:
    c.ignore(*SETTINGS)
    width = c.size("hidden_size")
    vision = c.sub("vision_config")
    built = tower(vision, "model.vision_model.")
    places = [*built.places]
    perceiver = c.sub("perceiver_config")
    perceiver.ignore("use_resampler")
    if c.flag("use_resampler"):
        places.append(Placed("model.perceiver_resampler.", resampler(perceiver, built.width)))
    layers = layers_of(c)
    own, cross = decoder_layer(c), cross_layer(c, built.width)
    step = c.size("cross_layer_interval")
    for i in range(layers):
        if i % step == 0 and i // step < layers // step:
            places.append(Placed(f"model.gated_cross_attn_layers.{i // step}.", cross))
        places.append(Placed(f"model.layers.{i}.", own))
    return composite(
        c,
        hidden_size=width,
        embedding=embedding(c, width),
        layers=places,
        head=head(c, width),
        warnings=(*built.warnings, *(perceiver.finish() if c.flag("use_resampler") else ())),
        not_trainable_because=NOT_MODELLED,
    )


def embedding(c: Config, width: int) -> Block:
    b = BlockBuilder("embedding", 0)
    e = b.part("model", "embedding")
    e.embedding("embed_tokens", c.size("vocab_size"), width)
    extra = c.count("additional_vocab_size")
    if extra:
        e.embedding("embed_tokens.additional_embedding", extra, width)
    return b.block()


def head(c: Config, width: int) -> Block:
    """The words that were added have a matrix of their own."""
    tied, extra = c.flag("tie_word_embeddings"), c.count("additional_vocab_size")
    b = BlockBuilder("head", width)
    x = rms(b, b.input, "model.norm")
    h = b.part("", "output_head")
    table = EMBEDDING if tied else None
    logits = h.linear(x, "lm_head", c.size("vocab_size"), split="vocabulary", tied_to=table)
    if extra:
        table = EXTRA if tied else None
        more = h.linear(x, "lm_head.additional_fc", extra, split="vocabulary", tied_to=table)
        logits = h.concatenate(logits, more)
    h.cross_entropy(logits)
    return b.block()


def heads_of(c: Config) -> Heads:
    heads = c.size("num_attention_heads")
    return Heads(heads, heads, c.divides("hidden_size", "num_attention_heads"))


def feed_forward(c: Config, b: BlockBuilder, x: Tensor) -> Tensor:
    inner, activation = c.size("intermediate_size"), c.word("hidden_act")
    f = b.part("mlp", "feed_forward")
    return blocks.gated_feed_forward(f, x, intermediate_size=inner, activation=activation)


def decoder_layer(c: Config) -> Block:
    h = heads_of(c)
    b = BlockBuilder("decoder", c.size("hidden_size"))
    pre_norm(
        b,
        rms,
        lambda b, x: blocks.grouped_query_attention(b.part("self_attn", "attention"), x, h),
        lambda b, x: feed_forward(c, b, x),
    )
    return b.block()


def cross_layer(c: Config, states: int) -> Block:
    """Queries from the text, keys and values from the patches; a learned gate on each branch."""
    h, width = heads_of(c), c.size("hidden_size")
    kind = c.one_of("alpha_type", ("float", "vector"))
    shape = (1, 1, width) if kind == "vector" else (1,)
    b = BlockBuilder("cross attention", width)

    def gated(x: Tensor, name: str) -> Tensor:
        return b.opaque(name, width, (b.weight(name, *shape, kind="vector"),), (x,))

    x = rms(b, b.input, "input_layernorm")
    a = b.part("cross_attn", "attention")
    image = a.opaque("image_hidden_states", states, ())
    q = a.linear(x, "q_proj", h.q_width)
    k, v = (a.linear(image, f"{name}_proj", h.kv_width) for name in "kv")
    if c.flag("qk_layer_norms"):
        q = a.rms_norm(q, "q_layer_norm", heads=h.heads)
        k = a.rms_norm(k, "k_layer_norm", heads=h.heads)
    out = a.attention(q, k, v, heads=h.heads, kv_heads=h.kv_heads, causal=False)
    out = a.linear(out, "o_proj", width, split="row")
    x = b.add(b.input, gated(out, "alpha_cross_attn"))
    y = feed_forward(c, b, rms(b, x, "post_attention_layernorm"))
    b.add(x, gated(y, "alpha_dense"))
    return b.block()


def resampler(c: Config, width: int) -> Block:
    """Learned queries attend to patches and queries, layer after layer."""
    h = Heads(
        c.size("resampler_n_heads"), c.size("resampler_n_heads"), c.size("resampler_head_dim")
    )
    normed = c.flag("qk_layer_norms_perceiver")
    b = BlockBuilder("resampler", width, sequence="image")
    r = b.part("", "other")
    x = learned(r, r.input, "latents", c.size("resampler_n_latents"), width)
    for i in range(layers_of(c, "resampler_depth")):
        a = r.part(f"blocks.{i}.0", "attention")
        context = a.layer_norm(r.input, "context_layer_norm")
        y = a.layer_norm(x, "latents_layer_norm")
        q = a.linear(y, "q_proj", h.q_width)
        k, v = (a.linear(context, f"{name}_proj", h.kv_width) for name in "kv")
        if normed:
            q = a.layer_norm(q, "q_layer_norm", heads=h.heads)
            k = a.layer_norm(k, "k_layer_norm", heads=h.heads)
        out = a.attention(q, k, v, heads=h.heads, kv_heads=h.heads, causal=False)
        x = a.add(x, a.linear(out, "output_proj", width, split="row"))
        f = r.part(f"blocks.{i}.1", "feed_forward")
        y = f.linear(f.layer_norm(x, "ln"), "fc", RESAMPLER_WIDENING * width)
        x = f.add(x, f.linear(f.activation(y, "relu"), "c_proj", width, split="row"))
    r.layer_norm(x, "layer_norm")
    return b.block()
