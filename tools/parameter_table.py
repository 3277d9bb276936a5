"""Which model types are counted exactly: cases of tools/parameter_cases.py against our counter.

    python tools/parameter_table.py CASES.json ... -o docs/parameters.md

One line per model type: cases, exact ones (total and active), refused, off. A type without a
family here is "not covered". Needs neither torch nor transformers.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from planner.errors import PlannerError
from planner.model import families
from planner.model.config import Config
from planner.model.parameters import count_parameters

TASKS = {
    "causal-lm": "Causal language models",
    "masked-lm": "Masked language models (encoders)",
    "seq2seq": "Encoder-decoders",
    "image-text": "Vision-language models",
    "image-class": "Vision models",
    "speech": "Speech encoders",
    "speech-seq2seq": "Speech to text",
}


@dataclass
class Tally:
    """Results of one model type: how many cases, and how they came out."""

    exact: int = 0
    refused: int = 0
    uncovered: int = 0
    off: list[str] = field(default_factory=list)

    @property
    def cases(self) -> int:
        return self.exact + self.refused + self.uncovered + len(self.off)


def with_head(case: dict[str, Any]) -> dict[str, Any]:
    """The case's config with the class that its task builds, as a checkpoint names it."""
    return {"architectures": [case["architecture"]], **case["config"]}


def tally(cases: Iterable[dict[str, Any]]) -> dict[str, dict[str, Tally]]:
    """Results by task and model type."""
    found: dict[str, dict[str, Tally]] = defaultdict(lambda: defaultdict(Tally))
    for case in cases:
        one = found[case["task"]][case["model_type"]]
        if case["model_type"] not in families.FAMILIES:
            one.uncovered += 1
            continue
        try:
            count = count_parameters(families.build(Config(with_head(case))))
        except PlannerError:
            one.refused += 1
            continue
        active = case["active"]
        if count.total == case["total"] and active in (None, count.active):
            one.exact += 1
        else:
            one.off.append(f"{case['name']} {count.total - case['total']:+,}")
    return found


INTRODUCTION = """# Parameter counts against Transformers

Every model type of Transformers 5.24.0 with its default config and with mutations (tied or untied,
biases, head sizes, fewer key/value heads, experts, windows, more layers ...), built on PyTorch's
meta device and counted, against this planner's own count. Exact means total and active parameters
to the unit; refused means an error that names the field. A config that Transformers builds and
cannot run (heads that do not add up) is counted with a warning. JetMoE's active parameters leave
out the experts of its feed-forward part as well as those of its attention. Made by
`tools/parameter_cases.py write` and `tools/parameter_table.py`.

| task | types | covered | all exact | cases | exact | refused | off |
| --- | --: | --: | --: | --: | --: | --: | --: |"""


def page(found: dict[str, dict[str, Tally]]) -> str:
    lines = INTRODUCTION.splitlines()
    for task, name in TASKS.items():
        types = found.get(task, {})
        if not types:
            continue
        covered = [t for t in types.values() if t.cases > t.uncovered]
        whole = [t for t in covered if not t.off and not t.refused]
        counts = [
            len(types),
            len(covered),
            len(whole),
            sum(t.cases for t in types.values()),
            sum(t.exact for t in types.values()),
            sum(t.refused for t in types.values()),
            sum(len(t.off) for t in types.values()),
        ]
        lines.append(f"| {name} | {' | '.join(map(str, counts))} |")
    for task, name in TASKS.items():
        types = found.get(task, {})
        if not types:
            continue
        lines += ["", f"## {name}", "", "| model type | cases | exact | refused | off by |"]
        lines.append("| --- | --: | --: | --: | --- |")
        for model_type in sorted(types):
            one = types[model_type]
            told = "not covered" if one.uncovered else "; ".join(one.off)
            lines.append(f"| {model_type} | {one.cases} | {one.exact} | {one.refused} | {told} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("cases", nargs="+", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    cases = [case for path in given.cases for case in json.loads(path.read_text(encoding="utf-8"))]
    given.output.write_text(page(tally(cases)), encoding="utf-8")


if __name__ == "__main__":
    main()
