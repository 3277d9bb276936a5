"""What BERT's kin add to the embeddings: layout, table columns, pronunciation, task, ..."""

from __future__ import annotations

from collections.abc import Callable

from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.operations import Tensor

Extra = Callable[[Config, BlockBuilder, Tensor, int], Tensor]


def table(b: BlockBuilder, x: Tensor, name: str, rows: int, width: int) -> Tensor:
    return b.add(x, b.embedding(name, rows, width, split="whole"))


def token_positions(b: BlockBuilder, x: Tensor, rows: int, width: int) -> Tensor:
    name = "position_embeddings"
    return b.add(x, b.embedding(name, rows, width, split="whole", positions=True))


def _ernie(c: Config, b: BlockBuilder, x: Tensor, width: int) -> Tensor:
    rows = c.size("task_type_vocab_size")
    return table(b, x, "task_type_embeddings", rows, width) if c.flag("use_task_id") else x


def _layoutlm(c: Config, b: BlockBuilder, x: Tensor, width: int) -> Tensor:
    """Where a token's box lies on the page, and its size."""
    for axis in "xyhw":
        name = f"{axis}_position_embeddings"
        x = table(b, x, name, c.size("max_2d_position_embeddings"), width)
    return x


def _tapas(c: Config, b: BlockBuilder, x: Tensor, width: int) -> Tensor:
    """Row, column, rank and so on of the table's cell that a token stands in."""
    for i, rows in enumerate(c.sizes("type_vocab_sizes") or ()):
        x = table(b, x, f"token_type_embeddings_{i}", rows, width)
    return x


def _roc_bert(c: Config, b: BlockBuilder, x: Tensor, width: int) -> Tensor:
    """Pronunciation and shape of a Chinese character, joined to the token and projected."""
    joined = [x]
    for kind, name in (("pronunciation", "pronunciation_embed"), ("shape", "shape_embed")):
        rows, narrow = c.size(f"{kind}_vocab_size"), c.size(f"{kind}_embed_dim")
        extra = b.embedding(name, rows, narrow, split="whole")
        if c.flag(f"enable_{kind}"):
            joined.append(extra)
    if not c.flag("concat_input"):
        return x
    whole = b.concatenate(*joined)
    return b.linear(whole, "map_inputs_layer", width, bias=True, split="whole")


EXTRA_EMBEDDINGS: dict[str, Extra] = {
    "ernie": _ernie,
    "layoutlm": _layoutlm,
    "tapas": _tapas,
    "roc_bert": _roc_bert,
}
