"""PI0: PaliGemma beside a small Gemma that denoises a robot's actions."""

from __future__ import annotations

from planner.model import families
from planner.model.assemble import composite
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.families.vision_layers import NOT_MODELLED
from planner.model.nesting import prefix_changed, renamed, without_logits
from planner.model.operations import Block
from planner.model.spec import ModelSpec, Placed

HEADS = ("language",)
SETTINGS = (
    *("chunk_size", "num_inference_steps", "time_sampling_beta_alpha", "time_sampling_beta_beta"),
    *("time_sampling_scale", "time_sampling_offset", "min_period", "max_period"),
)


def build(c: Config) -> ModelSpec:
    c.ignore(*SETTINGS)
    seeing = c.sub("vlm_config")
    seeing.require(seeing.model_type == "paligemma", "model_type", "paligemma")
    whole = families.build(seeing)
    acting = c.sub("dit_config")
    acting.ignore("is_causal", "use_bidirectional_attention")
    acting.given["vocab_size"] = seeing.sub("text_config").size("vocab_size")  # always the same
    expert = families.build(acting)
    head = BlockBuilder("head", expert.hidden_size, sequence="actions")
    h = head.part("", "output_head")
    h.linear(h.input, "action_out_proj", c.size("max_action_dim"), bias=True, split="whole")
    embedding, *layers = inside(whole, "model.vlm.")
    return composite(
        c,
        hidden_size=whole.hidden_size,
        embedding=embedding.block,
        layers=[
            *layers,
            Placed("embed_action_time.", actions(c, expert.hidden_size)),
            *inside(expert, "model.dit."),
        ],
        head=head.block(),
        warnings=(*whole.warnings, *expert.warnings),
        not_trainable_because=NOT_MODELLED,
    )


def inside(spec: ModelSpec, prefix: str) -> list[Placed]:
    """A model's places under a prefix, without its output matrix."""
    rename = prefix_changed("model.", prefix)
    places = (spec.embedding, *spec.layers, without_logits(spec.head))
    return [renamed(place, rename) for place in places]


def actions(c: Config, width: int) -> Block:
    """The robot's state, the noisy actions and the time of the denoising, as tokens."""
    c.require(width % 2 == 0, "dit_config", "an even hidden_size")
    b = BlockBuilder("actions", width, sequence="actions")
    e = b.part("", "embedding")
    noisy = e.opaque("noisy_actions", c.size("max_action_dim"), ())
    state = e.opaque("state", c.size("max_state_dim"), ())
    x = e.linear(noisy, "action_in_proj", width, bias=True)
    e.linear(state, "state_proj", width, bias=True)
    timed = e.opaque("time", 2 * width, (), (x,))
    y = e.activation(e.linear(timed, "action_time_mlp_in", width, bias=True), "silu")
    e.linear(y, "action_time_mlp_out", width, bias=True)
    return b.block()
