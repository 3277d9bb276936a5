"""GPT-2 and its kin: learned positions, layer norms, plain feed-forward parts."""

from __future__ import annotations

from collections.abc import Callable

from planner.model import blocks, counted, wiring
from planner.model.assemble import layer, layers_of
from planner.model.blocks import Heads
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.frames import Names, framed
from planner.model.operations import Block, Tensor, Weight
from planner.model.spec import ModelSpec
from planner.model.wiring import Part

NAMES = Names(positions="wpe")


def build(c: Config) -> ModelSpec:
    builders: dict[str, Callable[[Config], ModelSpec]] = {
        "gpt2": gpt2,
        "gpt-sw3": gpt2,
        "gpt_bigcode": gpt2,
        "gpt_neo": gpt_neo,
        "openai-gpt": openai_gpt,
        "ctrl": ctrl,
    }
    return builders[c.model_type](c)


def gpt2(c: Config) -> ModelSpec:
    """Fused queries, keys and values; matrices stored (inputs, outputs), but in BigCode's."""
    width, heads = c.size("n_embd"), c.size("n_head")
    head = c.divides("n_embd", "n_head")
    bigcode = c.model_type == "gpt_bigcode"
    shared_keys = bigcode and c.flag("multi_query")
    h = Heads(heads, 1 if shared_keys else heads, head)
    inner, activation = c.size("n_inner", 4 * width), c.word("activation_function")
    c.ignore("scale_attn_weights", "scale_attn_by_inverse_layer_idx", "n_ctx")
    c.ignore("attention_softmax_in_fp32", "scale_attention_softmax_in_fp32")
    upcast = not bigcode and c.flag("reorder_and_upcast_attn")
    crossed = c.flag("add_cross_attention")
    c.require(not (crossed and shared_keys), "multi_query", "false with add_cross_attention")

    def attention(b: BlockBuilder, x: Tensor) -> Tensor:
        return blocks.fused_query_attention(
            b.part("attn", "attention"),
            x,
            h,
            names=("c_attn", "c_proj"),
            bias=True,
            output_bias=True,
            rotary=0,
            transposed=not bigcode,
            scores_float32=upcast,
            softmax_float32=upcast or bigcode,
        )

    def feed_forward(b: BlockBuilder, x: Tensor) -> Tensor:
        if crossed:
            x = cross_attention(b, x, bigcode)
        return blocks.feed_forward(
            b.part("mlp", "feed_forward"),
            x,
            intermediate_size=inner,
            activation=activation,
            names=("c_fc", "c_proj"),
            transposed=not bigcode,
        )

    b = BlockBuilder("decoder", width)
    wiring.pre_norm(b, layer, attention, feed_forward, names=("ln_1", "ln_2"))
    pattern = ("decoder",) * layers_of(c, "n_layer")
    return framed(
        c,
        NAMES,
        {"decoder": b.block()},
        pattern,
        width=width,
        positions=c.size("n_positions"),
        buffer_bytes=c.size("n_positions") ** 2 if bigcode else 0,  # one causal mask of booleans
        not_trainable_because=counted.NEVER_RUN if crossed else None,
    )


def cross_attention(
    b: BlockBuilder, x: Tensor, bigcode: bool = False, *, norm_bias: bool = True
) -> Tensor:
    """Weights that a language model alone has and never runs: there is no encoder."""
    d, inner = x.width, b.part("crossattention", "attention")

    def matrix(name: str, outputs: int) -> list[Weight]:
        shape = (outputs, d) if bigcode else (d, outputs)
        return [inner.weight(f"{name}.weight", *shape), inner.weight(f"{name}.bias", outputs)]

    weights = [*matrix("c_attn", 2 * d), *matrix("q_attn", d), *matrix("c_proj", d)]
    norm = counted.norm(b, "ln_cross_attn", d, norm_bias)
    return b.opaque("crossattention", d, [*weights, *norm], (x,), group="attention")


def gpt_neo(c: Config) -> ModelSpec:
    """Full and local attention by turns; scores in float32 and unscaled."""
    width, heads = c.size("hidden_size"), c.size("num_heads")
    head = c.divides("hidden_size", "num_heads")
    inner, activation = c.size("intermediate_size", 4 * width), c.word("activation_function")
    window, layers = c.optional("window_size"), layers_of(c, "num_layers")
    pattern = gpt_neo_kinds(c, layers)

    def block(kind: str) -> Block:
        def attention(b: BlockBuilder, x: Tensor) -> Tensor:
            return blocks.grouped_query_attention(
                b.part("attn.attention", "attention"),
                x,
                Heads(heads, heads, head),
                output_bias=True,
                rotary=0,
                window=window if kind == "local" else None,
                names=("q_proj", "k_proj", "v_proj", "out_proj"),
                scores_float32=True,
                eager_only=True,
            )

        b = BlockBuilder(kind, width)
        feed = gpt2_feed_forward(inner, activation, transposed=False)
        wiring.pre_norm(b, layer, attention, feed, names=("ln_1", "ln_2"))
        return b.block()

    positions = c.size("max_position_embeddings")
    kinds = {kind: block(kind) for kind in set(pattern)}
    masks = layers * positions**2  # booleans, one causal mask a layer
    return framed(c, NAMES, kinds, pattern, width=width, positions=positions, buffer_bytes=masks)


def gpt_neo_kinds(c: Config, layers: int) -> tuple[str, ...]:
    """attention_types [[["global", "local"], 12]]: a list of words, and how often it repeats."""
    c.ignore("attention_layers")
    given = c.raw("attention_types")
    if given is None:
        return tuple("local" if i % 2 else "global" for i in range(layers))
    wanted = f'a list like [[["global", "local"], {layers // 2}]] for {layers} layers'
    c.require(isinstance(given, list), "attention_types", wanted)
    kinds: list[str] = []
    for entry in given:
        c.require(isinstance(entry, list) and len(entry) == 2, "attention_types", wanted)
        words, times = entry
        c.require(isinstance(words, list) and isinstance(times, int), "attention_types", wanted)
        c.require(0 < times <= layers, "attention_types", wanted)
        kinds.extend(words * times)
    fits = len(kinds) == layers and set(kinds) <= {"global", "local"}
    c.require(fits, "attention_types", wanted)
    return tuple(kinds)


def gpt2_feed_forward(inner: int, activation: str, *, transposed: bool) -> Part:
    def part(b: BlockBuilder, x: Tensor) -> Tensor:
        return blocks.feed_forward(
            b.part("mlp", "feed_forward"),
            x,
            intermediate_size=inner,
            activation=activation,
            names=("c_fc", "c_proj"),
            transposed=transposed,
        )

    return part


def openai_gpt(c: Config) -> ModelSpec:
    """The first GPT: norms after each addition, no last norm."""
    width, heads = c.size("n_embd"), c.size("n_head")
    h = Heads(heads, heads, c.divides("n_embd", "n_head"))
    activation = c.word("afn")

    def attention(b: BlockBuilder, x: Tensor) -> Tensor:
        return blocks.fused_query_attention(
            b.part("attn", "attention"),
            x,
            h,
            names=("c_attn", "c_proj"),
            bias=True,
            output_bias=True,
            rotary=0,
            transposed=True,
            eager_only=True,
            softmax_float32=False,
        )

    # Its "gelu" is the one in steps that later code calls gelu_new.
    activation = "gelu_new" if activation == "gelu" else activation
    feed = gpt2_feed_forward(4 * width, activation, transposed=True)
    b = BlockBuilder("decoder", width)
    wiring.norm_after_add(b, layer, attention, feed, names=("ln_1", "ln_2"))
    layers, positions = layers_of(c, "n_layer"), c.size("n_positions")
    return framed(
        c,
        Names(embedding="tokens_embed", positions="positions_embed", final=None),
        {"decoder": b.block()},
        ("decoder",) * layers,
        width=width,
        positions=positions,
        buffer_elements=layers * positions**2,  # a causal mask a layer
    )


def ctrl(c: Config) -> ModelSpec:
    """Scaled embeddings, sinusoidal positions, biases everywhere."""
    width, heads = c.size("n_embd"), c.size("n_head")
    h, inner = Heads(heads, heads, c.divides("n_embd", "n_head")), c.size("dff")

    def attention(b: BlockBuilder, x: Tensor) -> Tensor:
        return blocks.grouped_query_attention(
            b.part("multi_head_attention", "attention"),
            x,
            h,
            bias=True,
            output_bias=True,
            rotary=0,
            names=("Wq", "Wk", "Wv", "dense"),
            softmax_float32=False,
        )

    def feed_forward(b: BlockBuilder, x: Tensor) -> Tensor:
        return blocks.feed_forward(
            b.part("ffn", "feed_forward"),
            x,
            intermediate_size=inner,
            activation="relu",
            names=("0", "2"),
        )

    b = BlockBuilder("decoder", width)
    wiring.pre_norm(b, layer, attention, feed_forward, names=("layernorm1", "layernorm2"))
    return framed(
        c,
        Names(embedding="w", final="layernorm"),
        {"decoder": b.block()},
        ("decoder",) * layers_of(c, "n_layer"),
        width=width,
        embedded=lambda b, x: b.add_constant(b.scale(x)),
        head_bias=True,
        buffer_bytes=4 * c.size("n_positions") * width,  # sines, computed once in float32
    )
