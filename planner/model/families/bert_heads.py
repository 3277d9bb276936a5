"""Heads of BERT's kin: masked or causal language model, classifiers, or none with the pooler."""

from __future__ import annotations

from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.heads import kind_of_head, labels, not_modelled
from planner.model.operations import Block, Tensor

# Names of the language-model head's parts: dense, norm, decoder; where the bias lies.
PARTS = {
    "cls": ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm"),
    "lm_head": ("lm_head.dense", "lm_head.layer_norm"),
    "electra": ("generator_predictions.dense", "generator_predictions.LayerNorm"),
    "rembert": ("cls.predictions.dense", "cls.predictions.LayerNorm"),
}
DECODERS = {
    "cls": "cls.predictions.decoder",
    "lm_head": "lm_head.decoder",
    "electra": "generator_lm_head",
    "rembert": "cls.predictions.decoder",
    "bias": "lm_head.decoder",
}


def bert_head(
    c: Config, style: str, prefix: str, final_norm: str | None, pooler: str | None
) -> tuple[Block, bool]:
    """The head, and whether the encoder stands alone (its weights then have no prefix)."""
    kind = kind_of_head(c)
    bare = kind == "bare"
    b = BlockBuilder("head", c.size("hidden_size"))
    x = b.input
    inside = "" if bare else f"{prefix}."
    if final_norm:
        x = b.layer_norm(x, f"{inside}{final_norm}")
    with_pooler = (bare and style != "electra") or (kind == "sequences" and style == "cls")
    if pooler or with_pooler:
        pooled = b.part(inside.rstrip("."), "output_head").linear(
            x, pooler or "pooler.dense", x.width, bias=True, split="whole"
        )
        pooled = b.activation(pooled, "tanh")
        x = pooled if with_pooler else x
    head = b.part("", "output_head")
    if kind == "language":
        language_head(c, head, x, style, f"{prefix}.embeddings.word_embeddings.weight")
    elif kind in ("tokens", "spans"):
        name = "classifier" if kind == "tokens" else "qa_outputs"
        head.linear(x, name, labels(c), bias=True, split="whole")
    elif kind == "sequences":
        sequence_classifier(c, head, x, style)
    c.ignore("tie_word_embeddings", "output_embedding_size")
    return b.block(), bare


def sequence_classifier(c: Config, b: BlockBuilder, x: Tensor, style: str) -> None:
    if style == "cls":
        b.linear(x, "classifier", labels(c), bias=True, split="whole")
    elif style in ("lm_head", "electra"):
        x = b.activation(b.linear(x, "classifier.dense", x.width, bias=True, split="whole"), "tanh")
        b.linear(x, "classifier.out_proj", labels(c), bias=True, split="whole")
    else:
        raise not_modelled(c)


def language_head(c: Config, b: BlockBuilder, x: Tensor, style: str, embedding: str) -> None:
    """dense, activation, norm, then the tied embedding's matrix with a bias of its own."""
    tied = c.flag("tie_word_embeddings") and style != "rembert"
    if style != "bias":
        dense, norm = PARTS[style]
        narrow = "output_embedding_size" if style == "rembert" else "embedding_size"
        has_own = c.model_type in ("electra", "rembert", "roformer")
        width = c.size(narrow, x.width) if has_own else x.width
        activation = "gelu" if style in ("lm_head", "electra") else c.word("hidden_act")
        x = transform(b, x, dense, norm, activation, width)
    own_bias = style in ("electra", "rembert")
    vocabulary(
        b,
        x,
        c.size("vocab_size"),
        DECODERS[style],
        tied_to=embedding if tied else None,
        shared_bias=None if own_bias else f"{DECODERS[style].rsplit('.', 1)[0]}.bias",
    )


def transform(
    b: BlockBuilder, x: Tensor, dense: str, norm: str, activation: str, width: int | None = None
) -> Tensor:
    """What stands before the matrix of the vocabulary: dense, activation, norm."""
    x = b.linear(x, dense, width or x.width, bias=True, split="whole")
    return b.layer_norm(b.activation(x, activation), norm)


def vocabulary(
    b: BlockBuilder,
    x: Tensor,
    vocab: int,
    name: str,
    *,
    tied_to: str | None,
    shared_bias: str | None = None,
) -> None:
    """Logits and loss. `shared_bias`: a bias outside the decoder, which is the decoder's too
    where the embeddings are tied; without it the decoder has its own."""
    own_bias = shared_bias is None or tied_to is None
    weights = [b.weight(f"{name}.weight", vocab, x.width, split="vocabulary", tied_to=tied_to)]
    if own_bias:
        weights.append(b.weight(f"{name}.bias", vocab, split="vocabulary"))
    if shared_bias is not None:
        weights.append(b.weight(shared_bias, vocab, split="vocabulary"))
    logits = b.make(vocab, "tensor")
    b.record(
        "linear",
        name,
        (x,),
        (logits,),
        weights,
        flops_per_token=2 * x.width * vocab,
        transposed=False,
        bias=True,
    )
    b.cross_entropy(logits)
