"""Several answers in the order in which a buyer reads them."""

from __future__ import annotations

from collections.abc import Sequence

from planner.answers.fit import FitAnswer
from planner.units import SECONDS_PER_HOUR


def ranked(answers: Sequence[FitAnswer]) -> list[FitAnswer]:
    """Those that fit first, cheapest first; what has no known price comes after what has one."""
    if len(answers) < 2:
        return list(answers)
    return sorted(answers, key=_key)


def _key(answer: FitAnswer) -> tuple[bool, bool, float]:
    usd = usd_per_million_tokens(answer)
    return (
        answer.estimate.verdict == "does_not_fit",
        usd is None,
        usd if usd is not None else float(answer.estimate.step.step_seconds),
    )


def usd_per_million_tokens(answer: FitAnswer) -> float | None:
    """Price of a million tokens of training at the estimated rate [USD]."""
    price = answer.estimate.cluster.usd_per_gpu_hour
    if price is None:
        return None
    per_second = float(answer.estimate.run.tokens_per_second_per_gpu)
    return price / SECONDS_PER_HOUR / per_second * 1e6
