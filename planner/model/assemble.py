"""Puts blocks together to a model: embedding, ordered layers, head."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from planner.errors import InputError, unknown
from planner.model.blocks import Heads
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.operations import Block, Tensor
from planner.model.spec import ModelSpec, Placed
from planner.model.wiring import Norm

# More layers than this is a slip of the keyboard; it also bounds the pattern's length.
MOST_LAYERS = 100_000


def rms(b: BlockBuilder, x: Tensor, name: str) -> Tensor:
    return b.rms_norm(x, name)


def rms_float32(b: BlockBuilder, x: Tensor, name: str) -> Tensor:
    """RMSNorm whose weight is applied in float32 (Gemma, OLMo-2, gpt-oss)."""
    return b.rms_norm(x, name, cast="after_weight")


def layer(b: BlockBuilder, x: Tensor, name: str) -> Tensor:
    return b.layer_norm(x, name)


def token_embedding(
    vocab_size: int,
    width: int,
    *,
    prefix: str = "model",
    name: str = "embed_tokens",
    after: Callable[[BlockBuilder, Tensor], Tensor] | None = None,
) -> Block:
    """Look-up of the tokens; `after` adds positions, a norm or a scale."""
    b = BlockBuilder("embedding", 0)
    inner = b.part(prefix, "embedding")
    x = inner.embedding(name, vocab_size, width)
    if after is not None:
        after(inner, x)
    return b.block()


def output_head(
    width: int,
    vocab_size: int,
    *,
    tied_to: str | None = None,
    norm: Norm | None = rms,
    norm_name: str = "model.norm",
    name: str = "lm_head",
    bias: bool = False,
    before: Callable[[BlockBuilder, Tensor], Tensor] | None = None,
    after: Callable[[BlockBuilder, Tensor], Tensor] | None = None,
) -> Block:
    """Final norm, output matrix and loss; `tied_to`: the embedding whose storage it shares."""
    b = BlockBuilder("head", width)
    x = norm(b, b.input, norm_name) if norm else b.input
    inner = b.part("", "output_head")
    if before is not None:
        x = before(inner, x)
    x = inner.linear(x, name, vocab_size, split="vocabulary", bias=bias, tied_to=tied_to)
    if after is not None:
        x = after(inner, x)
    inner.cross_entropy(x)
    return b.block()


def assemble(
    c: Config,
    *,
    hidden_size: int,
    embedding: Block,
    blocks: Mapping[str, Block],
    pattern: Sequence[str],
    head: Block,
    layer_prefix: str = "model.layers.{}.",
    not_trainable_because: str | None = None,
    buffer_bytes: int = 0,
    buffer_elements: int = 0,
) -> ModelSpec:
    """The model whose i-th layer is blocks[pattern[i]]."""
    warnings = c.finish()
    return ModelSpec(
        name=c.model_type,
        model_type=c.model_type,
        hidden_size=hidden_size,
        embedding=Placed("", embedding),
        layers=tuple(
            Placed(layer_prefix.format(i), blocks[kind]) for i, kind in enumerate(pattern)
        ),
        head=Placed("", head),
        config=c.given,
        assumed=c.assumed,
        warnings=warnings,
        not_trainable_because=not_trainable_because,
        buffer_bytes=buffer_bytes,
        buffer_elements=buffer_elements,
    )


def composite(
    c: Config,
    *,
    hidden_size: int,
    embedding: Block,
    layers: Sequence[Placed],
    head: Block,
    warnings: Sequence[str] = (),
    not_trainable_because: str,
) -> ModelSpec:
    """A model put together from places; `warnings`: of parts with configs of their own."""
    return ModelSpec(
        name=c.model_type,
        model_type=c.model_type,
        hidden_size=hidden_size,
        embedding=Placed("", embedding),
        layers=tuple(layers),
        head=Placed("", head),
        config=c.given,
        assumed=c.assumed,
        warnings=tuple(dict.fromkeys((*warnings, *c.finish()))),
        not_trainable_because=not_trainable_because,
    )


def layers_of(c: Config, field: str = "num_hidden_layers") -> int:
    count = c.size(field)
    if count > MOST_LAYERS:
        raise c.error(field, count, f"at most {MOST_LAYERS} layers")
    return count


# Spellings of older configs that Transformers still reads.
OLD_LAYER_TYPES = {
    "mamba": "linear_attention",
    "attention": "full_attention",
    "deepseek_sparse_attention": "indexed_attention",
    "qwen_sparse_attention": "indexed_attention",
}


def layer_types(
    c: Config,
    layers: int,
    default: Callable[[int], str] | None = None,
    *,
    known: Collection[str] = (),
    field: str = "layer_types",
) -> tuple[str, ...]:
    """config.layer_types, or the family's own rule by layer number, or its repeated pattern.

    known: the kinds that the family's piece can build; any other is refused
    """
    given = c.words(field)
    if given is not None:
        if len(given) != layers:
            raise InputError(
                f"{field} has {len(given)} entries: expected num_hidden_layers = {layers}"
            )
        given = tuple(OLD_LAYER_TYPES.get(kind, kind) for kind in given)
        for kind in given:
            if known and kind not in known:
                raise unknown(f"layer type in {field}", kind, known)
        return given
    if default is None:
        pattern = c.default_pattern(field) or ("full_attention",)
        return tuple(pattern[i % len(pattern)] for i in range(layers))
    return tuple(default(i) for i in range(layers))


def window_of(c: Config, kind: str, field: str = "sliding_window") -> int | None:
    """The window of a layer of this kind: only sliding layers have one."""
    return c.optional(field) if kind == "sliding_attention" else None


def heads_of(c: Config) -> Heads:
    """The heads as most families state them: grouped keys and head_dim may be left out."""
    heads = c.size("num_attention_heads")
    kv_heads = c.size("num_key_value_heads", heads)
    c.require(heads % kv_heads == 0, "num_key_value_heads", f"a divisor of {heads} query heads")
    head_dim = c.optional("head_dim") or c.divides("hidden_size", "num_attention_heads")
    return Heads(heads, kv_heads, head_dim)


def rotary_fraction(c: Config, *fields: str, kind: str = "") -> float:
    """The share of each head that is rotated; `fields`: older names of it.

    kind: where rope_parameters are given by kind of layer, those of this kind count
    """
    given = _of_kind(c.given.get("rope_parameters") or c.given.get("rope_scaling"), kind)
    for name in ("partial_rotary_factor", *fields):
        for value in (c.raw(name), given.get(name)):
            if value is not None:
                return _share(c, name, value)
    default = _of_kind(c.resolved("rope_parameters"), kind).get("partial_rotary_factor")
    return 1.0 if default is None else _share(c, "partial_rotary_factor", default)


def _of_kind(rope: object, kind: str) -> Mapping[str, object]:
    if not isinstance(rope, Mapping):
        return {}
    inner = rope.get(kind)
    return inner if isinstance(inner, Mapping) else rope


def _share(c: Config, name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise c.error(name, value, "a number from 0 to 1")
    return float(value)


def llama_shaped(
    c: Config,
    blocks: Mapping[str, Block],
    pattern: Sequence[str],
    *,
    rows: int | None = None,
    outputs: int | None = None,
    norm: Norm = rms,
    final_norm: str = "model.norm",
    embedded: Callable[[BlockBuilder, Tensor], Tensor] | None = None,
    before_head: Callable[[BlockBuilder, Tensor], Tensor] | None = None,
    logits: Callable[[BlockBuilder, Tensor], Tensor] | None = None,
    head_bias: bool = False,
    tied: bool | None = None,
    not_trainable_because: str | None = None,
) -> ModelSpec:
    """The model with the module names that most decoders share (model.layers.N, lm_head).

    rows, outputs                   of the embedding and the head, where they are not vocab_size
    tied                            in place of tie_word_embeddings
    embedded, before_head, logits   what happens to the embedding, before and after the head
    """
    width, vocab = c.size("hidden_size"), c.size("vocab_size")
    said = c.flag("tie_word_embeddings")
    tied = said if tied is None else tied
    return assemble(
        c,
        hidden_size=width,
        embedding=token_embedding(rows or vocab, width, after=embedded),
        blocks=blocks,
        pattern=pattern,
        head=output_head(
            width,
            outputs or vocab,
            tied_to="model.embed_tokens.weight" if tied else None,
            norm=norm,
            norm_name=final_norm,
            bias=head_bias,
            before=before_head,
            after=logits,
        ),
        not_trainable_because=not_trainable_because,
    )


def scaled(b: BlockBuilder, x: Tensor) -> Tensor:
    """x times a constant of the config."""
    return b.scale(x)
