"""Step 3.5: sliding layers with heads of their own, gated heads, experts after three layers."""

from __future__ import annotations

from planner.model import blocks, decoder
from planner.model.assemble import layer_types, rms_float32
from planner.model.blocks import Heads
from planner.model.config import Config
from planner.model.patterns import FULL, SLIDING
from planner.model.routing import Routing
from planner.model.spec import ModelSpec
from planner.model.traits import Attention, FeedForward, Gate, Traits

PER_HEAD = (True, "per-head")
# Layers that are dense where neither mlp_layer_types nor moe_layers_enum is given.
FIRST_DENSE = 3


def build(c: Config) -> ModelSpec:
    gating = c.raw("gating")
    each = "head" if gating is None or gating in PER_HEAD else "channel"
    ahead = c.count("num_nextn_predict_layers", 0)
    layers = c.size("num_hidden_layers")
    for name in ("layer_types", "mlp_layer_types"):  # those of layers that predict further tokens
        words = c.words(name)
        if ahead and words is not None and len(words) == layers + ahead:
            c.given[name] = list(words[:layers])
    c.ignore("attention_other_setting", "swiglu_limits", "swiglu_limits_shared")
    c.ignore("mtp_layer_types", "mtp_mlp_layer_types", "sliding_window")
    return decoder.build(
        c,
        Traits(
            Attention(
                heads=heads,
                head_norm=blocks.rms_float32_of_heads,
                rotary="partial",
                gate=Gate("g_proj", "sigmoid", each),
            ),
            FeedForward(),
            Routing(
                count="n_routed_experts",
                sparse=sparse,
                score="sigmoid",
                normalize=True,
                float32=True,
                scaled=True,
                shared=("share_expert_dim",),
            ),
            kinds=kinds,
            norm=rms_float32,
        ),
    )


def kinds(c: Config, layers: int) -> tuple[str, ...]:
    return layer_types(c, layers, lambda i: FULL, known=(FULL, SLIDING))


def sparse(c: Config, layers: int) -> tuple[bool, ...]:
    """mlp_layer_types, or the numbers of moe_layers_enum (a list, or text with commas)."""
    listed = c.raw("moe_layers_enum")
    if isinstance(listed, str):
        listed = [word for word in listed.split(",") if word.strip()]
    try:
        numbers = range(FIRST_DENSE, layers) if listed is None else {int(i) for i in listed}
    except (TypeError, ValueError):
        raise c.error("moe_layers_enum", listed, "layer numbers") from None
    rule = layer_types(
        c,
        layers,
        lambda i: "sparse" if i in numbers else "dense",
        known=("dense", "sparse"),
        field="mlp_layer_types",
    )
    return tuple(word == "sparse" for word in rule)


def heads(c: Config, i: int, kind: str) -> Heads:
    """A sliding layer may have another number of query heads."""
    plain = c.size("num_attention_heads")
    older = c.raw("attention_other_setting")
    other = older.get("num_attention_heads") if isinstance(older, dict) else None
    sliding = c.size("num_sliding_attention_heads", other or plain)
    own = c.per_layer("per_layer_config", ("num_attention_heads",))
    if own is None and kind == SLIDING:
        plain = sliding
    elif own is not None:
        plain = own.get(i, {}).get("num_attention_heads", plain)
    return Heads(plain, c.size("num_key_value_heads"), c.size("head_dim"))
