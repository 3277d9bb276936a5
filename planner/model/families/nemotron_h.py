"""NemotronH: each block is one thing: Mamba-2, attention, a feed-forward part or experts."""

from __future__ import annotations

from planner.model import blocks, expert_operations
from planner.model.assemble import (
    OLD_LAYER_TYPES,
    assemble,
    heads_of,
    output_head,
    token_embedding,
)
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.families.mamba import SCAN_SETTINGS
from planner.model.operations import Block, Tensor
from planner.model.spec import ModelSpec
from planner.model.state_space import SCAN_NOT_MODELLED, Mamba2, mamba2_mixer

LETTERS = {"M": "linear_attention", "E": "moe", "*": "full_attention", "-": "mlp"}
DEFAULT_PATTERN = "ME*-"

# Older names of the mixer's fields, which win over the present ones where both are given.
OLD_NAMES = {
    "n_groups": "mamba_n_groups",
    "conv_kernel": "mamba_d_conv",
    "use_conv_bias": "mamba_conv_bias",
}
UNUSED = (
    "tie_word_embeddings",  # the head has a matrix of its own whatever it says
    "num_hidden_layers",  # the pattern says how many there are
    "num_nextn_predict_layers",  # multi-token prediction is trained elsewhere, not in this code
    "mtp_layers_block_type",
    "mtp_hybrid_override_pattern",
    "mamba_proj_bias",
    "mamba_hidden_act",
    "mamba_expand",
    "expand",
    "mamba_dt_min",
    "mamba_dt_max",
    "mamba_dt_limit",
    "mamba_dt_init_floor",
    "attention_bias",
    "n_shared_experts",
    "moe_shared_expert_overlap",
    "sliding_window",
)


# Fields of one kind of layer, which the pattern may not have.
OF_A_KIND = (
    *("intermediate_size", "mlp_hidden_act", "mlp_bias", "n_routed_experts", "num_experts_per_tok"),
    *("moe_latent_size", "moe_intermediate_size", "moe_shared_expert_intermediate_size"),
    *("num_attention_heads", "num_key_value_heads", "head_dim", "ssm_state_size", "n_groups"),
    *("mamba_num_heads", "mamba_head_dim", "conv_kernel", "use_conv_bias", "use_bias"),
)


def build(c: Config) -> ModelSpec:
    c.ignore(*SCAN_SETTINGS, *UNUSED, *OLD_NAMES, *OF_A_KIND)
    width, vocab = c.size("hidden_size"), c.size("vocab_size")
    pattern = kinds_of_layers(c)
    kinds = {kind: block(c, kind, width) for kind in dict.fromkeys(pattern)}
    return assemble(
        c,
        hidden_size=width,
        embedding=token_embedding(vocab, width, name="embeddings"),
        blocks=kinds,
        pattern=pattern,
        head=output_head(width, vocab, norm_name="model.norm_f"),
        not_trainable_because=SCAN_NOT_MODELLED,
    )


def kinds_of_layers(c: Config) -> tuple[str, ...]:
    """layers_block_type, else hybrid_override_pattern (one letter per layer), else the default."""
    given = c.words("layers_block_type")
    if given is not None:
        c.ignore("hybrid_override_pattern")
        kinds = tuple(OLD_LAYER_TYPES.get(kind, kind) for kind in given)
        known = set(kinds) <= set(LETTERS.values())
        c.require(known, "layers_block_type", "linear_attention, moe, full_attention and mlp only")
        return kinds
    letters = c.word("hybrid_override_pattern", DEFAULT_PATTERN)
    known = set(letters) <= set(LETTERS)
    c.require(known, "hybrid_override_pattern", "M (Mamba), E (experts), * (attention), - (MLP)")
    return tuple(LETTERS[letter] for letter in letters)


def block(c: Config, kind: str, width: int) -> Block:
    b = BlockBuilder(kind, width)
    x = b.rms_norm(b.input, "norm")
    if kind == "linear_attention":
        out = mamba2_mixer(b.part("mixer", "state_space"), x, mamba2_sizes(c))
    elif kind == "full_attention":
        inner = b.part("mixer", "attention")
        out = blocks.grouped_query_attention(inner, x, heads_of(c), rotary=0)
    elif kind == "mlp":
        inner = b.part("mixer", "feed_forward")
        out = feed_forward(inner, c, x, c.size("intermediate_size"))
    else:
        out = experts(b.part("mixer", "experts"), c, x)
    b.add(b.input, out)
    return b.block()


def feed_forward(b: BlockBuilder, c: Config, x: Tensor, inner: int) -> Tensor:
    return blocks.feed_forward(
        b,
        x,
        intermediate_size=inner,
        activation=c.word("mlp_hidden_act"),
        bias=c.flag("mlp_bias"),
        names=("up_proj", "down_proj"),
    )


def experts(b: BlockBuilder, c: Config, x: Tensor) -> Tensor:
    """Routed experts (in a narrower latent space, if moe_latent_size is set) and a shared one."""
    count, top_k = c.size("n_routed_experts"), c.size("num_experts_per_tok")
    latent, bias = c.optional("moe_latent_size"), c.flag("mlp_bias")
    scores = expert_operations.router(
        b, x, "gate", experts=count, top_k=top_k, score="sigmoid", normalize=True
    )
    narrow = b.linear(x, "fc1_latent_proj", latent, bias=bias, split="whole") if latent else x
    out = expert_operations.experts(
        b,
        narrow,
        scores,
        "experts",
        experts=count,
        top_k=top_k,
        intermediate_size=c.size("moe_intermediate_size"),
        activation=c.word("mlp_hidden_act"),
        gated=False,
    )
    if latent:
        out = b.linear(out, "fc2_latent_proj", x.width, bias=bias, split="whole")
    shared = feed_forward(
        b.part("shared_experts", "feed_forward"),
        c,
        x,
        c.size("moe_shared_expert_intermediate_size"),
    )
    return b.add(out, shared)


def mamba2_sizes(c: Config) -> Mamba2:
    heads, head_dim = c.size("mamba_num_heads"), c.size("mamba_head_dim")
    name = {new: old if old in c.given else new for new, old in OLD_NAMES.items()}
    bias = c.flag("use_bias")
    return Mamba2(
        inner=heads * head_dim,
        heads=heads,
        groups=c.size(name["n_groups"]),
        state=c.size("ssm_state_size"),
        kernel=c.size(name["conv_kernel"]),
        convolution_bias=c.flag(name["use_conv_bias"]),
        bias=bias,
        output_bias=bias,
    )
