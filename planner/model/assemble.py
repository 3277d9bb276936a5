"""Puts blocks together to a model: embedding, ordered layers, head."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from planner.errors import InputError
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.operations import Block, Tensor
from planner.model.spec import ModelSpec, Placed

# More layers than this is a slip of the keyboard; it also bounds the pattern's length.
MOST_LAYERS = 100_000

Norm = Callable[[BlockBuilder, Tensor, str], Tensor]


def rms(b: BlockBuilder, x: Tensor, name: str) -> Tensor:
    return b.rms_norm(x, name)


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
) -> ModelSpec:
    """The model whose i-th layer is blocks[pattern[i]]."""
    warnings = c.finish()
    return ModelSpec(
        name=c.model_type,
        model_type=c.model_type,
        hidden_size=hidden_size,
        embedding=Placed("", embedding),
        layers=tuple(Placed(layer_prefix.format(i), blocks[kind]) for i, kind in enumerate(pattern)),
        head=Placed("", head),
        config=c.given,
        assumed=c.assumed,
        warnings=warnings,
        not_trainable_because=not_trainable_because,
    )


def layers_of(c: Config, field: str = "num_hidden_layers") -> int:
    count = c.size(field)
    if count > MOST_LAYERS:
        raise c.error(field, count, f"at most {MOST_LAYERS} layers")
    return count


def layer_types(c: Config, layers: int, default: Callable[[int], str]) -> tuple[str, ...]:
    """config.layer_types, or the family's own rule by layer number."""
    given = c.words("layer_types")
    if given is None:
        return tuple(default(i) for i in range(layers))
    if len(given) != layers:
        raise InputError(
            f"layer_types has {len(given)} entries: expected num_hidden_layers = {layers}"
        )
    return given
