"""BERT and its kin: encoders over token, position and segment embeddings with a masked-LM head.

What each differs in is a row of KIN: where the norms stand, how the head is named, what is added
to the embeddings. Blocks that compute attention in another way than BERT are marked `approximate`:
their parameters are exact, their training memory is not modelled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from planner.model.assemble import assemble, layers_of
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.families.bert_embeddings import EXTRA_EMBEDDINGS, token_positions
from planner.model.families.bert_heads import bert_head
from planner.model.heads import kind_of_head, not_modelled
from planner.model.operations import Block, Tensor, Weight
from planner.model.spec import ModelSpec

HEADS = ("language", "bare", "sequences", "tokens", "spans")


@dataclass(frozen=True)
class Kin:
    """What sets a family apart from BERT.

    prefix         of the encoder's weights
    head           style of the head: names are BERT's (cls), RoBERTa's (lm_head) or its own
    norms          names of a layer's two norms
    final_norm     name of the norm after the last layer: there is one where norms come first
    offset         rows of the position table beyond max_position_embeddings
    positions      whether there is a position table
    segments       whether there is a table of segments (token types)
    pooler         name of a pooler that the language model has too
    unused         fields that no tensor depends on
    causal         each token sees only those before it, whatever is_decoder says
    approximate    attention is computed in another way than BERT's
    """

    prefix: str
    head: str = "cls"
    norms: tuple[str, str] = ("attention.output.LayerNorm", "output.LayerNorm")
    final_norm: str | None = None
    embedding_norm: bool = True
    offset: int = 0
    positions: bool = True
    segments: bool = True
    pooler: str | None = None
    approximate: bool = False
    causal: bool = False
    unused: tuple[str, ...] = ()


MRA = ("block_per_row", "approx_mode")
MRA_PRIORS = ("initial_prior_first_n_blocks", "initial_prior_diagonal_n_blocks")
YOSO = ("use_expectation", "hash_code_len", "num_hash", "use_fast_hash", "lsh_backward")
NYSTROM = ("segment_means_seq_len", "num_landmarks", "inv_coeff_init_option")
BIG_BIRD = ("attention_type", "block_size", "num_random_blocks", "rescale_embeddings")
TAPAS = (
    *("num_aggregation_labels", "aggregation_labels", "no_aggregation_label_index"),
    *("positive_label_weight", "use_answer_as_supervision", "answer_loss_importance"),
    *("use_gumbel_for_cells", "use_gumbel_for_aggregation", "aggregation_temperature"),
    *("average_approximation_function", "cell_selection_preference", "answer_loss_cutoff"),
    *("max_num_rows", "max_num_columns", "average_logits_per_cell", "select_one_column"),
    *("allow_empty_column_selection", "init_cell_selection_weights_to_zero"),
    "reset_position_index_per_cell",
)
KIN = {
    "bert": Kin("bert"),
    "ernie": Kin("ernie"),
    "roberta": Kin("roberta", "lm_head"),
    "camembert": Kin("roberta", "lm_head"),
    "xlm-roberta": Kin("roberta", "lm_head"),
    "data2vec-text": Kin("data2vec_text", "lm_head"),
    "ibert": Kin("ibert", "lm_head", approximate=True, unused=("force_dequant",)),
    "electra": Kin("electra", "electra"),
    "rembert": Kin("rembert", "rembert"),
    "bert-generation": Kin("bert", "bias", segments=False),
    "roc_bert": Kin("roc_bert"),
    "layoutlm": Kin("layoutlm", pooler="pooler.dense"),
    "tapas": Kin("tapas", segments=False, unused=TAPAS),
    "roformer": Kin("roformer", positions=False, approximate=True, unused=("rotary_value",)),
    "big_bird": Kin("bert", pooler="pooler", approximate=True, unused=BIG_BIRD),
    "longformer": Kin(
        "longformer", "lm_head", approximate=True, unused=("attention_window", "onnx_export")
    ),
    "mra": Kin("mra", offset=2, approximate=True, unused=(*MRA, *MRA_PRIORS)),
    "yoso": Kin("yoso", offset=2, approximate=True, unused=YOSO),
    "nystromformer": Kin("nystromformer", offset=2, approximate=True, unused=NYSTROM),
    "xmod": Kin(
        "roberta",
        "lm_head",
        approximate=True,
        unused=("default_language", "ln_before_adapter", "adapter_reuse_layer_norm"),
    ),
    "roberta-prelayernorm": Kin(
        "roberta_prelayernorm",
        "lm_head",
        norms=("attention.LayerNorm", "intermediate.LayerNorm"),
        final_norm="LayerNorm",
    ),
    "xlm-roberta-xl": Kin(
        "roberta",
        "lm_head",
        norms=("attention.self_attn_layer_norm", "LayerNorm"),
        final_norm="encoder.LayerNorm",
        embedding_norm=False,
    ),
    "megatron-bert": Kin(
        "bert",
        norms=("attention.ln", "ln"),
        final_norm="encoder.ln",
        embedding_norm=False,
    ),
}
# Families whose classifiers or bare encoders are put together in another way than BERT's.
LANGUAGE_ONLY = ("roformer", "big_bird", "mra", "yoso", "nystromformer", "tapas", "ibert")
# Families with cross-attention that is modelled: BERT's, with the norm after it.
CROSSED = (
    *("bert", "roberta", "camembert", "xlm-roberta", "electra", "ernie", "data2vec-text"),
    *("rembert", "bert-generation", "roc_bert"),
)
APPROXIMATE = "the tensors that its attention keeps for the backward pass are not modelled"


def build(c: Config) -> ModelSpec:
    kin = KIN[c.model_type]
    if c.model_type in LANGUAGE_ONLY and kind_of_head(c) != "language":
        raise not_modelled(c)
    if c.model_type == "xmod" and c.flag("pre_norm"):
        kin = replace(kin, final_norm="encoder.LayerNorm")
    c.ignore(*kin.unused)
    c.one_of("position_embedding_type", ("absolute",), "absolute")
    width, vocab = c.size("hidden_size"), c.size("vocab_size")
    c.divides("hidden_size", "num_attention_heads")
    head, bare = bert_head(c, kin.head, kin.prefix, kin.final_norm, kin.pooler)
    prefix = "" if bare else f"{kin.prefix}."
    return assemble(
        c,
        hidden_size=width,
        embedding=embeddings(c, kin, prefix, vocab, width),
        blocks={"encoder": encoder_layer(c, kin, width)},
        pattern=("encoder",) * layers_of(c),
        head=head,
        layer_prefix=f"{prefix}encoder.layer.{{}}.",
        not_trainable_because=APPROXIMATE if kin.approximate else None,
    )


def embeddings(c: Config, kin: Kin, prefix: str, vocab: int, width: int) -> Block:
    """Token, segment and position embeddings added up, then the norm."""
    own = {"electra": "embedding_size", "rembert": "input_embedding_size"}
    narrow = c.size(own.get(c.model_type, "embedding_size"), width)
    if c.model_type not in (*own, "roformer"):
        narrow = width
    b = BlockBuilder("embedding", 0)
    outer = b.part(prefix.rstrip("."), "embedding")
    e = outer.part("embeddings")
    x = e.embedding("word_embeddings", vocab, narrow)
    if kin.segments:
        rows = c.count("type_vocab_size")
        x = e.add(x, e.embedding("token_type_embeddings", rows, narrow, split="whole"))
    if kin.positions:
        x = token_positions(e, x, c.size("max_position_embeddings") + kin.offset, narrow)
    if c.model_type in EXTRA_EMBEDDINGS:
        x = EXTRA_EMBEDDINGS[c.model_type](c, e, x, width)
    if kin.embedding_norm:
        x = e.layer_norm(x, "LayerNorm")
    if c.model_type == "rembert":
        outer.linear(x, "encoder.embedding_hidden_mapping_in", width, bias=True, split="whole")
    elif narrow != width:
        outer.linear(x, "embeddings_project", width, bias=True, split="whole")
    if c.model_type == "roformer":  # a table of sines that is stored as a parameter
        shape = (c.size("max_position_embeddings"), width // c.size("num_attention_heads"))
        table = outer.weight("encoder.embed_positions.weight", *shape, kind="embedding")
        outer.opaque("encoder.embed_positions", width, (table,), ())
    return b.block()


# ---- one layer ----------------------------------------------------------------------------------


def encoder_layer(c: Config, kin: Kin, width: int) -> Block:
    b = BlockBuilder("encoder", width)
    inner, activation = c.size("intermediate_size"), c.word("hidden_act")
    first, second = kin.norms
    pre = kin.final_norm is not None
    x = b.layer_norm(b.input, first) if pre else b.input
    x = b.add(self_attention(c, kin, b.part("attention", "attention"), x), b.input)
    after_attention = x if pre else b.layer_norm(x, first)
    if c.flag("add_cross_attention"):
        known = c.model_type in CROSSED and c.flag("is_decoder")
        c.require(known, "add_cross_attention", "false: a decoder has it, and not in every family")
        after_attention = cross_attention(c, b.part("crossattention", "attention"), after_attention)
    x = b.layer_norm(x, second) if pre else after_attention
    f = b.part("", "feed_forward")
    x = f.activation(f.linear(x, "intermediate.dense", inner, bias=True), activation)
    x = b.add(f.linear(x, "output.dense", width, bias=True, split="row"), after_attention)
    if c.model_type == "xmod":
        o = b.part("output", "other")
        y = o.layer_norm(x, "adapter_layer_norm") if c.flag("adapter_layer_norm") else x
        x = language_adapters(c, o.part("adapter_modules"), y)
    if not pre:
        b.layer_norm(x, second)
    return b.block()


def self_attention(c: Config, kin: Kin, b: BlockBuilder, x: Tensor) -> Tensor:
    """Every token sees every other one, but in a decoder."""
    width, heads = x.width, c.size("num_attention_heads")
    bias = c.flag("use_bias") if c.model_type == "big_bird" else True
    names = ("query", "key", "value")
    q, k, v = (b.linear(x, f"self.{name}", width, bias=bias) for name in names)
    if c.model_type == "roformer":
        q, k = b.rotary(q, heads=heads), b.rotary(k, heads=heads)
    special = SPECIAL_WEIGHTS.get(c.model_type)
    out = b.attention(
        q,
        k,
        v,
        heads=heads,
        kv_heads=heads,
        causal=kin.causal or c.flag("is_decoder"),
        weights=special(c, b, width) if special else (),
    )
    return b.linear(out, "output.dense", width, bias=True, split="row")


def cross_attention(c: Config, b: BlockBuilder, x: Tensor) -> Tensor:
    """Queries from the text, keys and values from an encoder of the same width."""
    width, heads = x.width, c.size("num_attention_heads")
    states = b.opaque("encoder_hidden_states", width, ())
    q = b.linear(x, "self.query", width, bias=True)
    k, v = (b.linear(states, f"self.{name}", width, bias=True) for name in ("key", "value"))
    out = b.attention(q, k, v, heads=heads, kv_heads=heads, causal=False)
    y = b.linear(out, "output.dense", width, bias=True, split="row")
    return b.layer_norm(b.add(x, y), "output.LayerNorm")


def _global_projections(c: Config, b: BlockBuilder, width: int) -> tuple[Weight, ...]:
    """Longformer projects the tokens that see everything by matrices of their own."""
    return tuple(
        b.weight(f"self.{name}_global.{what}", *shape, split="column")
        for name in ("query", "key", "value")
        for what, shape in (("weight", (width, width)), ("bias", (width,)))
    )


def _value_convolution(c: Config, b: BlockBuilder, width: int) -> tuple[Weight, ...]:
    """Nystromformer and YOSO add a convolution of the values along the sequence, by head."""
    field = "conv_kernel_size" if c.model_type == "nystromformer" else "conv_window"
    kernel, heads = c.optional(field), c.size("num_attention_heads")
    if kernel is None:
        return ()
    return (b.weight("self.conv.weight", heads, 1, kernel, 1),)


SPECIAL_WEIGHTS: dict[str, Callable[[Config, BlockBuilder, int], tuple[Weight, ...]]] = {
    "longformer": _global_projections,
    "nystromformer": _value_convolution,
    "yoso": _value_convolution,
}


def language_adapters(c: Config, b: BlockBuilder, x: Tensor) -> Tensor:
    """X-MOD: a bottleneck per language, of which each sequence uses one."""
    narrow, last = x.width // c.size("adapter_reduction_factor"), x
    for language in c.words("languages") or ():
        inner = b.part(language)
        hidden = inner.linear(x, "dense1", narrow, bias=True, split="whole")
        hidden = inner.activation(hidden, c.word("hidden_act"))
        last = inner.linear(hidden, "dense2", x.width, bias=True, split="whole")
    return b.add(last, x)
