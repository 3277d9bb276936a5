"""A whole model whose modules have names of their own: BLOOM's word_embeddings, GPT-2's wte."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from planner.model.assemble import assemble, layer, output_head, token_embedding
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.operations import Block, Tensor
from planner.model.spec import ModelSpec
from planner.model.wiring import Norm

Step = Callable[[BlockBuilder, Tensor], Tensor]


@dataclass(frozen=True)
class Names:
    """Where a family keeps its parts.

    embedding   module of the token embedding, in the prefix
    layers      module of the layers; final: of the last norm, None without one
    positions   module of the learned positions, None without them
    """

    prefix: str = "transformer"
    embedding: str = "wte"
    positions: str | None = None
    layers: str = "h"
    final: str | None = "ln_f"
    head: str = "lm_head"


def framed(
    c: Config,
    names: Names,
    blocks: Mapping[str, Block],
    pattern: Sequence[str],
    *,
    width: int,
    embedding_width: int | None = None,
    rows: int | None = None,
    outputs: int | None = None,
    positions: int = 0,
    norm: Norm = layer,
    embedded: Step | None = None,
    before_head: Step | None = None,
    head_bias: bool = False,
    tied: bool | None = None,
    not_trainable_because: str | None = None,
    buffer_bytes: int = 0,
    buffer_elements: int = 0,
) -> ModelSpec:
    """embedding (+ learned positions), layers, norm and head; `embedded` acts before positions.

    rows, outputs   of the embedding and the head, where they are not vocab_size
    tied            in place of tie_word_embeddings
    """
    vocab, narrow = c.size("vocab_size"), embedding_width or width
    tied = c.flag("tie_word_embeddings") if tied is None else tied

    def after(b: BlockBuilder, x: Tensor) -> Tensor:
        place = None
        if names.positions is not None:
            place = b.embedding(names.positions, positions, width, split="whole", positions=True)
        if embedded is not None:
            x = embedded(b, x)
        return x if place is None else b.add(x, place)

    prefix = f"{names.prefix}." if names.prefix else ""
    return assemble(
        c,
        hidden_size=width,
        embedding=token_embedding(
            rows or vocab, narrow, prefix=names.prefix, name=names.embedding, after=after
        ),
        blocks=blocks,
        pattern=pattern,
        head=output_head(
            width,
            outputs or vocab,
            tied_to=f"{prefix}{names.embedding}.weight" if tied else None,
            norm=norm if names.final else None,
            norm_name=f"{prefix}{names.final}",
            name=names.head,
            bias=head_bias,
            before=before_head,
        ),
        layer_prefix=f"{prefix}{names.layers}.{{}}.",
        buffer_bytes=buffer_bytes,
        buffer_elements=buffer_elements,
        not_trainable_because=not_trainable_because,
    )
