"""A traced step as what is compared: the highest moment of each phase, by category."""

from __future__ import annotations

import logging
import warnings
from dataclasses import replace

import torch
import transformers

from planner.errors import InputError
from planner.validation.trace_compare import TracedMoment, TracedStep
from planner.validation.traced import TracedCase
from planner.validation.tracing.step import PHASES, StepTrace

# What models raise that fake tensors cannot run, and configs that Transformers refuses.
FAILURES = (
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    KeyError,
    IndexError,
    ImportError,
    AssertionError,
)
# Gradients count as such from the operator on that makes them.
GRADIENTS = ("Gradient", "UnshardedGradient")


def run(case: TracedCase) -> StepTrace:
    """Trace the step; what cannot be traced is one error that names the model.

    A model whose code does not reach the stand-in of a fused kernel is traced as its eager code.
    """
    step = _run(case)
    if case.recipe.attention == "flash" and step.attention == "eager" and not case.eager_only:
        return _run(replace(case, recipe=replace(case.recipe, attention="eager")))
    return step


def _run(case: TracedCase) -> StepTrace:
    transformers.logging.set_verbosity_error()
    # An operator that fails is told by our own error; PyTorch logs its traceback as well.
    logging.getLogger("torch._subclasses.fake_tensor").setLevel(logging.CRITICAL + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return StepTrace(case)
        except FAILURES as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:240]
            kind = case.config["model_type"]
            raise InputError(
                f"{case.id}: PyTorch cannot run a step of {kind} on fake tensors: {reason}"
            ) from error


def traced_step(step: StepTrace) -> TracedStep:
    phases = {}
    for phase in PHASES:
        moment = step.tracker.peak_moment(phase=phase)
        found = step.tracker.by_category(moment, eventually=GRADIENTS)
        phases[phase] = TracedMoment(moment.operator, moment.module, found)
    saved = None if step.case.recomputes else sum(one.bytes for one in step.saved)
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    return TracedStep(step.elements, phases, saved, step.attention, versions)
