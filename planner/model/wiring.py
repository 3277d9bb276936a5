"""How the parts of one decoder layer are joined: where the norms and the residual additions sit.

Each function takes the block, a norm, the token mixer and the feed-forward part, and records one
layer in the order of its forward pass.
"""

from __future__ import annotations

from collections.abc import Callable

from planner.model.builder import BlockBuilder
from planner.model.operations import Tensor

Norm = Callable[[BlockBuilder, Tensor, str], Tensor]
Part = Callable[[BlockBuilder, Tensor], Tensor]

PRE_NORM_NAMES = ("input_layernorm", "post_attention_layernorm")
SANDWICH_NAMES = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)


def pre_norm(
    b: BlockBuilder,
    norm: Norm,
    mixer: Part,
    feed: Part,
    *,
    names: tuple[str, str] = PRE_NORM_NAMES,
    scaled: bool = False,
) -> Tensor:
    """x + mixer(norm(x)), then x + feed(norm(x)); `scaled`: each branch times a constant."""
    x = b.input
    for name, part in zip(names, (mixer, feed), strict=True):
        branch = part(b, norm(b, x, name))
        x = b.add(x, b.scale(branch) if scaled else branch)
    return x


def post_norm(
    b: BlockBuilder,
    norm: Norm,
    mixer: Part,
    feed: Part,
    *,
    names: tuple[str, str] = ("post_attention_layernorm", "post_feedforward_layernorm"),
) -> Tensor:
    """x + norm(mixer(x)), then x + norm(feed(x)): OLMo-2."""
    x = b.input
    for name, part in zip(names, (mixer, feed), strict=True):
        x = b.add(x, norm(b, part(b, x), name))
    return x


def norm_after_add(
    b: BlockBuilder, norm: Norm, mixer: Part, feed: Part, *, names: tuple[str, str]
) -> Tensor:
    """norm(x + mixer(x)), then norm(x + feed(x)): the first Transformer, BERT, OPT-350m."""
    x = b.input
    for name, part in zip(names, (mixer, feed), strict=True):
        x = norm(b, b.add(x, part(b, x)), name)
    return x


def sandwich(
    b: BlockBuilder,
    norm: Norm,
    mixer: Part,
    feed: Part,
    *,
    names: tuple[str, str, str, str] = SANDWICH_NAMES,
    scaled: bool = False,
) -> Tensor:
    """x + norm(mixer(norm(x))), then the same with feed: Gemma 2."""
    x = b.input
    for before, part, after in ((names[0], mixer, names[1]), (names[2], feed, names[3])):
        branch = norm(b, part(b, norm(b, x, before)), after)
        x = b.add(x, b.scale(branch) if scaled else branch)
    return x


def parallel(
    b: BlockBuilder, norm: Norm, mixer: Part, feed: Part, *, name: str = "input_layernorm"
) -> Tensor:
    """x + mixer(norm(x)) + feed(norm(x)) with one norm for both: GPT-J, Cohere."""
    normal = norm(b, b.input, name)
    mixed, fed = mixer(b, normal), feed(b, normal)
    return b.add(b.add(b.input, mixed), fed)
