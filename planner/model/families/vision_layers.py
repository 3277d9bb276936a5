"""One layer of a vision transformer, and its embedding of patches, for every family alike.

Families differ in names, in which biases there are, and in a scale on each branch; all of that is
a row of names. Tokens are patches: what is counted per token is per patch.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from planner.model import blocks
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.operations import Block, Tensor, Weight
from planner.model.traits import Step

NOT_MODELLED = "the training memory of images beside text is not modelled"


# Where the gated feed-forward part of a layer keeps its three matrices.
GATED_FEED = tuple(f"mlp.{name}_proj" for name in ("gate", "up", "down"))


@dataclass(frozen=True)
class Names:
    """Where a family keeps the parts of a layer.

    queries    three linears, or one that makes all three
    scales     a learned factor for each channel of each branch, or one (scalar_scales)
    head_norms norms of each head's queries and keys, or over all heads (norms_all_heads)
    gated      the feed-forward part is gated; `feed` then has three names
    """

    norms: tuple[str, str]
    queries: tuple[str, ...]
    output: str
    feed: tuple[str, ...] = ("mlp.fc1", "mlp.fc2")
    scales: tuple[str, str] | None = None
    scalar_scales: bool = False
    head_norms: tuple[str, str] | None = None
    head_norms_rms: bool = True
    norms_all_heads: bool = False
    rms: bool = False
    gated: bool = False


def attention_names(module: str, output: str) -> tuple[tuple[str, ...], str]:
    return tuple(f"{module}.{x}_proj" for x in "qkv"), f"{module}.{output}"


def bert_names(module: str) -> Names:
    """The names of BERT's layers, in which `module` keeps queries, keys and values."""
    return Names(
        ("layernorm_before", "layernorm_after"),
        tuple(f"attention.{module}.{name}" for name in ("query", "key", "value")),
        "attention.output.dense",
        ("intermediate.dense", "output.dense"),
    )


@dataclass(frozen=True)
class Biases:
    """Which matrices have a bias; down: the feed-forward part's last, where it differs."""

    query: bool = True
    key: bool = True
    value: bool = True
    output: bool = True
    feed: bool = True
    down: bool | None = None


ALL = Biases()
NONE = Biases(False, False, False, False, False)


def vision_layer(
    n: Names,
    width: int,
    heads: int,
    inner: int,
    activation: str,
    biases: Biases = ALL,
    *,
    rotary: bool = False,
    sequence: str = "image",
    causal: bool = False,
    head_dim: int | None = None,
    kv_heads: int | None = None,
    window: int | None = None,
    extra: tuple[Weight, ...] = (),
    feed: Step | None = None,
    mixer: Step | None = None,
) -> Block:
    """Pre-norm attention over all patches, or over those of a window, then the feed-forward part.

    extra   weights of the attention itself, such as relative positions
    feed    in place of the dense feed-forward part
    mixer   in place of the attention
    """
    b = BlockBuilder(f"{sequence} layer", width, sequence=sequence)
    a, f = b.part("", "attention"), b.part("", "feed_forward")
    inside = heads * (head_dim or width // heads)
    x = _norm(b, n, b.input, n.norms[0])
    h = blocks.Heads(heads, kv_heads or heads, inside // heads)
    if mixer is not None:
        y = mixer(b, x)
    else:
        out = blocks.rotated_attention(
            a,
            *_projected(a, n, x, h, biases),
            h,
            rotary=float(rotary),
            window=window,
            causal=causal,
            weights=extra,
        )
        y = a.linear(out, n.output, width, bias=biases.output, split="row")
    x = b.add(b.input, _scaled(b, n, y, 0))
    y = _norm(b, n, x, n.norms[1])
    if feed is not None:
        y = feed(b, y)
    elif n.gated:
        gate, up, down = n.feed
        y = blocks.gated_feed_forward(
            f,
            y,
            intermediate_size=inner,
            activation=activation,
            bias=biases.feed,
            down_bias=biases.down,
            names=(gate, up, down),
        )
    else:
        first, second = n.feed
        y = f.activation(f.linear(y, first, inner, bias=biases.feed), activation)
        y = f.linear(y, second, width, bias=biases.feed, split="row")
    b.add(x, _scaled(b, n, y, 1))
    return b.block()


def _projected(
    a: BlockBuilder, n: Names, x: Tensor, h: blocks.Heads, biases: Biases
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, by one linear or three, and the norms of the first two."""
    widths = (h.q_width, h.kv_width, h.kv_width)
    if len(n.queries) == 1:
        q, k, v = a.split(a.linear(x, n.queries[0], sum(widths), bias=biases.query), *widths)
    else:
        have = (biases.query, biases.key, biases.value)
        q, k, v = (
            a.linear(x, name, wide, bias=bias)
            for name, wide, bias in zip(n.queries, widths, have, strict=True)
        )
    if n.head_norms is None:
        return q, k, v
    norm = a.rms_norm if n.head_norms_rms else a.layer_norm
    q = norm(q, n.head_norms[0], heads=0 if n.norms_all_heads else h.heads)
    k = norm(k, n.head_norms[1], heads=0 if n.norms_all_heads else h.kv_heads)
    return q, k, v


def _norm(b: BlockBuilder, n: Names, x: Tensor, name: str) -> Tensor:
    return b.rms_norm(x, name) if n.rms else b.layer_norm(x, name)


def _scaled(b: BlockBuilder, n: Names, x: Tensor, branch: int) -> Tensor:
    if n.scales is None:
        return x
    name = n.scales[branch]
    size = 1 if n.scalar_scales else x.width
    return b.opaque(name, x.width, (b.weight(name, size),), (x,), group="other")


# ---- patches ------------------------------------------------------------------------------------


def pair(c: Config, name: str) -> tuple[int, int]:
    """A size that may be given as one number or as height and width."""
    if isinstance(c.raw(name), list | tuple):
        both = c.sizes(name) or ()
        c.require(len(both) == 2 and min(both) > 0, name, "one number, or height and width")
        return both[0], both[1]
    return c.size(name), c.size(name)


def patches(c: Config) -> int:
    """How many patches an image of the configured size has."""
    height, width = pair(c, "image_size")
    down, across = pair(c, "patch_size")
    return (height // down) * (width // across)


def patch_projection(
    b: BlockBuilder, name: str, width: int, *shape: int, bias: bool = True
) -> Tensor:
    """A convolution whose stride is its kernel: one matrix product per patch."""
    weights = [b.weight(f"{name}.weight", width, *shape)]
    if bias:
        weights.append(b.weight(f"{name}.bias", width))
    return b.opaque(name, width, weights, (), flops_per_token=2 * width * prod(shape))


def learned(b: BlockBuilder, x: Tensor, name: str, *shape: int) -> Tensor:
    """Tokens or positions that are parameters of their own."""
    return b.opaque(name, x.width, (b.weight(name, *shape, kind="embedding"),), (x,))
