"""CLIP and SigLIP as a whole: an encoder of images and one of text, compared by their outputs."""

from __future__ import annotations

from planner.model.assemble import layers_of
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.families.bert_embeddings import table
from planner.model.families.towers import tower
from planner.model.families.vision_layers import NOT_MODELLED, vision_layer
from planner.model.families.vision_towers import CLIP_NAMES
from planner.model.operations import Block, Weight
from planner.model.spec import ModelSpec, Placed


def dual_encoder(c: Config) -> ModelSpec:
    clip = "clip" in c.model_type
    c.ignore("logit_scale_init_value", "text_config_dict", "vision_config_dict")
    text = c.sub("text_config")
    width = text.size("hidden_size")
    text.divides("hidden_size", "num_attention_heads")
    text.ignore("projection_dim")
    built = tower(c.sub("vision_config"), "vision_model.")
    layer = vision_layer(
        CLIP_NAMES,
        width,
        text.size("num_attention_heads"),
        text.size("intermediate_size"),
        text.word("hidden_act"),
        sequence="text",
        causal=clip,
    )
    head = BlockBuilder("head", width)
    h = head.part("", "output_head")
    x = head.layer_norm(head.input, "text_model.final_layer_norm")
    if clip:
        size = c.size("projection_dim")
        h.linear(x, "text_projection", size, split="whole")
        pooled = h.opaque("image", built.width, ())
        h.linear(pooled, "visual_projection", size, split="whole")
        scales: tuple[Weight, ...] = (h.weight("logit_scale", kind="vector"),)
    else:
        size = text.size("projection_size", width)
        h.linear(x, "text_model.head", size, bias=True, split="whole")
        scales = (h.weight("logit_scale", 1), h.weight("logit_bias", 1))
    h.opaque("logits", 0, scales)
    layers = [Placed(f"text_model.encoder.layers.{i}.", layer) for i in range(layers_of(text))]
    embedding = embeddings(text, width)
    warnings = (*built.warnings, *text.finish(), *c.finish())
    return ModelSpec(
        name=c.model_type,
        model_type=c.model_type,
        hidden_size=width,
        embedding=Placed("", embedding),
        layers=(*built.places, *layers),
        head=Placed("", head.block()),
        config=c.given,
        assumed=c.assumed,
        warnings=warnings,
        not_trainable_because=NOT_MODELLED,
    )


def embeddings(c: Config, width: int) -> Block:
    b = BlockBuilder("embedding", 0)
    e = b.part("text_model.embeddings", "embedding")
    x = e.embedding("token_embedding", c.size("vocab_size"), width)
    table(e, x, "position_embedding", c.size("max_position_embeddings"), width)
    return b.block()
