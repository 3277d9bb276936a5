"""Which head a config builds: the class that `architectures` names, or the family's main one."""

from __future__ import annotations

from planner.errors import InputError
from planner.model.config import Config, family_table

# What a class's name ends with -> the kind of its head; the first that fits counts.
KINDS = (
    ("ForMaskedLM", "language"),
    ("ForCausalLM", "language"),
    ("LMHeadModel", "language"),
    ("ForConditionalGeneration", "language"),
    ("ForImageClassification", "images"),
    ("ForSequenceClassification", "sequences"),
    ("ForTokenClassification", "tokens"),
    ("ForQuestionAnswering", "spans"),
    ("ForMultipleChoice", "choices"),
    ("ForPreTraining", "pretraining"),
    ("Model", "bare"),
)

# The task of a family that a config without `architectures` is taken for: the first it has.
TASKS = (
    *("causal-lm", "seq2seq", "image-text", "masked-lm", "image-class"),
    *("speech", "speech-seq2seq"),
)


def architecture(c: Config) -> str:
    """The name of the class: architectures[0], else that of the family's main task."""
    given = c.given.get("architectures")
    if isinstance(given, list | tuple) and given:
        if not isinstance(given[0], str):
            raise c.error("architectures", given, "a list of class names")
        return given[0]
    known = _known(c)
    return next((known[task][0] for task in TASKS if task in known), "")


def main_class(c: Config, task: str) -> str:
    """The class that a family has for a task."""
    known = _known(c)
    if task not in known:
        raise c.error("model_type", c.model_type, f"a family with a class for {task}")
    return known[task][0]


def kind_of_head(c: Config) -> str:
    """language, images, sequences, tokens, spans, choices, pretraining, bare, or other."""
    name, main = architecture(c), task(c)
    if main is not None or not name:
        return "images" if main == "image-class" else "language"
    return next((kind for ending, kind in KINDS if name.endswith(ending)), "other")


def task(c: Config) -> str | None:
    """The task whose class `architecture` is, if it is one of the family's main classes."""
    name = architecture(c)
    known = _known(c)
    return next((task for task in TASKS if name in known.get(task, ())), None)


def _known(c: Config) -> dict[str, list[str]]:
    """The family's main classes by task: one, or several that load the same weights."""
    entry = family_table()["families"].get(c.model_type, {}).get("architectures", {})
    return {task: [name] if isinstance(name, str) else name for task, name in entry.items()}


def labels(c: Config) -> int:
    """How many classes a classifier tells apart: those of id2label, else num_labels, else 2."""
    names = c.given.get("id2label")
    if isinstance(names, dict) and names:
        return len(names)
    return c.size("num_labels", 2)


def not_modelled(c: Config) -> InputError:
    name = architecture(c)
    return c.error("architectures", name, f"a class of {c.model_type} whose head is modelled")
