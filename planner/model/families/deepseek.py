"""DeepSeek-V2 and its kin: multi-head latent attention, first dense layers, then experts.

Unlimited OCR has the same experts beside plain attention.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from planner.model import decoder, patterns
from planner.model.assemble import scaled
from planner.model.blocks import Heads
from planner.model.config import Config
from planner.model.routing import Routing, after_first, by_mlp_layer_types
from planner.model.spec import ModelSpec
from planner.model.traits import Attention, FeedForward, Latent, Traits

LATENT = Attention(latent=Latent())
# Where the code has no queries straight from x.
NARROW_QUERIES = Attention(latent=Latent(direct_query=False))
INDEXED = Attention(latent=Latent(rotary="interleave", direct_query=False, indexed=True))
DENSE = FeedForward(bias=False)
ROUTING = Routing(
    count="n_routed_experts",
    score="sigmoid",
    float32=True,
    scaled=True,
    sparse=after_first(),
    shared=("moe_intermediate_size", "n_shared_experts"),
)
# Configs name the prediction heads; Transformers builds none of them.
MTP = ("num_mtp_layers", "num_nextn_predict_layers", "moe_layer_freq")
PICKED = "keys are picked by an indexer"


def build(c: Config) -> ModelSpec:
    row = ROWS[c.model_type]
    return decoder.build(c, row if isinstance(row, Traits) else row(c))


def by_words(first_dense: int | str) -> Routing:
    return replace(ROUTING, sparse=by_mlp_layer_types(first_dense))


def said_to_be_sparse(c: Config, layers: int) -> tuple[bool, ...]:
    """Only mlp_layer_types says which layers have experts; words past the last layer are unread."""
    words = c.words("mlp_layer_types") or ()
    known = len(words) >= layers and set(words) <= {"dense", "sparse"}
    c.require(known, "mlp_layer_types", f'"dense" or "sparse" for each of {layers} layers')
    return tuple(word == "sparse" for word in words[:layers])


def undivided_heads(c: Config, i: int, kind: str) -> Heads:
    """head_dim is always hidden_size / heads, whatever the config says."""
    c.ignore("head_dim")
    heads = c.size("num_attention_heads")
    kv_heads = c.size("num_key_value_heads", heads)
    return Heads(heads, kv_heads, c.divides("hidden_size", "num_attention_heads"))


ROWS: dict[str, Traits | Callable[[Config], Traits]] = {
    "deepseek_v2": Traits(
        Attention(latent=Latent(rotary="complex")),
        FeedForward(),
        replace(ROUTING, score="softmax", normalize=False),
        ignored=MTP,
    ),
    "deepseek_v3": Traits(LATENT, DENSE, ROUTING, ignored=MTP),
    "sarvam_mla": Traits(LATENT, DENSE, ROUTING, ignored=MTP),
    "glm4_moe_lite": Traits(LATENT, DENSE, by_words(1), ignored=MTP),
    "axk1": Traits(
        NARROW_QUERIES, DENSE, replace(by_words(1), after="post_mlp_layernorm"), ignored=MTP
    ),
    "deepseek_v32": Traits(
        INDEXED,
        DENSE,
        by_words("first_k_dense_replace"),
        kinds=patterns.indexed,
        ignored=("mlp_bias", "index_topk", *MTP),
        not_trainable_because=PICKED,
    ),
    "glm_moe_dsa": Traits(
        INDEXED,
        DENSE,
        by_words("first_k_dense_replace"),
        kinds=patterns.indexer_types(),
        ignored=("mlp_bias", "index_topk", *MTP),
        not_trainable_because=PICKED,
    ),
    "mistral4": Traits(
        Attention(latent=Latent()), DENSE, replace(ROUTING, score="softmax", float32=False)
    ),
    "unlimited_ocr_text": Traits(
        Attention(heads=undivided_heads),
        FeedForward(),
        replace(by_words("first_k_dense_replace"), score="softmax", normalize=False),
        kinds=patterns.all_sliding_by_reference,
    ),
    "deepseek_ocr2_text": Traits(
        Attention(heads=undivided_heads),
        FeedForward(),
        replace(ROUTING, sparse=said_to_be_sparse, score="softmax", normalize=False),
        ignored=("topk_method",),
    ),
    "youtu": Traits(LATENT, DENSE, ignored=("embedding_initializer_range",)),
    "minicpm3": Traits(
        Attention(latent=Latent(rotary="half")),
        FeedForward(),
        scaled=True,
        embedded=scaled,
        before_head=scaled,
        ignored=("dim_model_base",),
    ),
}
