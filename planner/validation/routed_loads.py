"""How many rows the fullest rank gets where a table's tokens choose experts by a power law.

The source draws each expert's popularity from x^-exponent, scales it to all choices, and times the
rank whose experts have most (ai-dynamo/aiconfigurator, collector/helper.py, power_law_logits_v3).
Its five draws a row are not told: here many give what is expected of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

_DRAWS = 200
# Popularities lie between one choice and this share of the tokens; with fewer choices than
# experts, between these two.
_MOST_POPULAR, _FEW_CHOICES = 0.8, (0.01, 2.0)


@dataclass(frozen=True)
class Load:
    """Of the fullest rank: rows that it computes, and experts that have any."""

    rows: float
    touched: float


def even_load(tokens: float, experts: int, top_k: int, ranks: int) -> Load:
    """Of tokens that are dealt to the experts in turn.

    >>> even_load(4096, 128, 8, 4)
    Load(rows=8192.0, touched=32)
    """
    rows = tokens * top_k / ranks
    return Load(rows, min(experts // ranks, rows))


@cache
def power_law_load(tokens: int, experts: int, top_k: int, ranks: int, exponent: float) -> Load:
    """Of tokens whose choices follow a power law.

    >>> power_law_load(4096, 128, 8, 1, 1.2).rows
    32768.0
    """
    draws = np.random.default_rng(0).random((_DRAWS, experts))
    choices = tokens * top_k
    low, high = (1.0, _MOST_POPULAR * tokens) if choices > experts else _FEW_CHOICES
    power = 1.0 - exponent
    popular = (low**power + (high**power - low**power) * draws) ** (1.0 / power)
    rows = popular / popular.sum(axis=1, keepdims=True) * choices
    # no token chooses an expert twice: what is over goes to the others
    over = np.maximum(rows - tokens, 0.0).sum(axis=1, keepdims=True)
    rows = np.minimum(rows, tokens) + over / experts
    by_rank = rows.reshape(_DRAWS, ranks, experts // ranks)
    fullest = by_rank.sum(axis=2).argmax(axis=1)
    loads = by_rank[np.arange(_DRAWS), fullest]
    return Load(
        rows=round(float(loads.sum(axis=1).mean()), 6),
        touched=max(float((loads >= 0.5).sum(axis=1).mean()), 1.0),
    )
