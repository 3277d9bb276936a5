"""What sees and hears in the first Inkling: linears that fold a patch step by step, and a table."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, pairwise
from math import ceil, log, prod

from planner.model.assemble import layers_of
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.families.vision_towers import Tower
from planner.model.operations import Tensor
from planner.model.spec import Placed

# Channels are rounded up to a multiple of this (plan_out_scales in modeling_inkling.py).
CHANNEL_MULTIPLE = 64
# A longer side of a patch is a slip of the keyboard; it also bounds the choices below.
LARGEST = 256
# Costs that differ by less are the same in the single precision of the original.
TIE = 1e-5
# frames, height, width, channels
Scale = tuple[int, int, int, int]


def patches(c: Config, prefix: str) -> Tower:
    """Each layer folds neighbouring positions into channels and brings them to another width."""
    out, layers = c.size("text_hidden_size"), layers_of(c)
    c.ignore("hidden_size", "num_attention_heads")
    chosen = planned(c, layers)
    b = BlockBuilder("patch folding", chosen[0][3], sequence="image")
    x = b.input
    for i, (before, after) in enumerate(pairwise(chosen)):
        last = i == layers - 1
        p = b.part(f"encoder_layers.{i}", "other")
        folded = prod(a // b for a, b in zip(after[:3], before[:3], strict=True)) * before[3]
        x = p.linear(p.opaque("fold", folded, (), (x,)), "projection", out if last else after[3])
        if not last:
            x = p.activation(p.rms_norm(x, "layer_norm"), "gelu")
    b.rms_norm(x, "final_norm")
    return Tower((Placed(prefix, b.block()),), out)


def planned(c: Config, layers: int) -> list[Scale]:
    """The scale before each layer and after the last one.

    Scales grow by the prime factors of a patch's side, then of its frames; the layers spread over
    them as evenly as they can in the logarithm of a position's size.
    Source: plan_out_scales in Transformers' modeling_inkling.
    """
    side, frames = c.size("patch_size"), c.size("temporal_patch_size")
    channels = c.size("num_channels")
    c.require(2 <= side <= LARGEST, "patch_size", f"from 2 to {LARGEST}")
    c.require(frames <= LARGEST, "temporal_patch_size", f"at most {LARGEST}")
    sides = running_products(prime_factors(side)[::-1])
    times = running_products(prime_factors(frames)[::-1])
    scales: list[Scale] = [(1, 1, 1, channels)]
    scales += [
        (1, h, h, ceil(h * h * channels / CHANNEL_MULTIPLE) * CHANNEL_MULTIPLE) for h in sides
    ]
    last = sides[-1]
    scales += [(t, last, last, last**2 * channels * t * CHANNEL_MULTIPLE) for t in times]
    whole = log(side * side * frames * channels)
    ideal = [whole * i / layers for i in range(layers + 1)]
    cost = [[abs(want - log(prod(scale[:3]))) for scale in scales] for want in ideal]
    numbers = nearest(cost) if layers >= len(scales) else assigned(cost)
    wanted = "another number of layers: two scales fit one layer alike, and rounding decides"
    if numbers is None:
        raise c.error("num_hidden_layers", layers, wanted)
    return [scales[i] for i in (0, *numbers[1:-1], len(scales) - 1)]


def nearest(cost: list[list[float]]) -> list[int] | None:
    """The cheapest scale of each layer; None if a layer in between has two."""
    for row in cost[1:-1]:
        first, *others = sorted(row)
        if others and others[0] - first < TIE:
            return None
    return [row.index(min(row)) for row in cost]


def assigned(cost: list[list[float]]) -> list[int] | None:
    """The cheapest choice in which no scale serves twice; None if another costs as much.

    On a line the cheapest is in order, so that only exchanges of two can tie with it.
    """

    def total(some: Sequence[int]) -> float:
        return sum(row[i] for row, i in zip(cost, some, strict=True))

    ordered = sorted(combinations(range(len(cost[0])), len(cost)), key=total)
    best, *others = ordered
    exchanged = [
        [best[second if i == first else first if i == second else i] for i in range(len(best))]
        for first, second in combinations(range(len(best)), 2)
    ]
    tied = any(total(other) - total(best) < TIE for other in (*others[:1], *exchanged))
    return None if tied else list(best)


def prime_factors(number: int) -> list[int]:
    factors, divisor = [], 2
    while number > 1:
        while number % divisor == 0:
            factors.append(divisor)
            number //= divisor
        divisor += 1
    return factors


def running_products(numbers: list[int]) -> list[int]:
    return [prod(numbers[: i + 1]) for i in range(len(numbers))]


def sound(c: Config, prefix: str) -> Tower:
    """A table of the levels of every mel band, added up."""
    rows, width = c.size("n_mel_bins") * c.size("mel_vocab_size"), c.size("text_hidden_size")
    b = BlockBuilder("sound", width, sequence="audio")
    e = b.part("", "embedding")
    x: Tensor = e.embedding("embed_audio_tokens.embed_audio_tokens", rows, width, split="whole")
    b.rms_norm(x, "norm")
    return Tower((Placed(prefix, b.block()),), width)
