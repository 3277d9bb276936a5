"""Answers as plain data in the promised JSON form. Unknown is null, never invented."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from planner.answers.fit import FitAnswer
from planner.answers.words import offload_words
from planner.estimate import Estimate
from planner.report.oom_view import oom_json, remedy_json
from planner.report.timeline_json import timeline_json
from planner.report.words import recompute_words
from planner.training.layout import Sharding
from planner.units import SECONDS_PER_DAY

SCHEMA_VERSION = 1


def estimate_json(e: Estimate) -> dict[str, Any]:
    """One estimate; limits and remedies are added by `fit_json`."""
    layout, recipe, memory, run = e.layout, e.recipe, e.memory, e.run
    return {
        "schema_version": SCHEMA_VERSION,
        "name": e.name,
        "model": {
            "name": e.model.name,
            "parameters": e.parameters.total,
            "active_parameters": e.parameters.active,
        },
        "hardware": {
            "gpu": e.cluster.gpu.id,
            "gpus": _whole(layout.gpus),
            "gpus_per_node": e.cluster.gpus_per_node,
        },
        "recipe": {
            "sequence_length": recipe.sequence_length,
            "precision": recipe.precision,
            "optimizer": recipe.optimizer,
            "attention": recipe.attention,
            "cross_entropy": recipe.cross_entropy,
            "compile": recipe.compile,
            "finetune": None
            if recipe.finetune is None
            else {
                "method": recipe.finetune.method,
                "rank": recipe.finetune.rank,
                "targets": list(recipe.finetune.targets),
            },
            "tokens": _tokens(e),
            "steps": _whole(run.steps),
            "evaluation_every_steps": recipe.pauses.evaluation_every_steps,
            "evaluation_steps": recipe.pauses.evaluation_steps,
            "checkpoint_every_steps": recipe.pauses.checkpoint_every_steps,
            "storage_bytes_per_second": recipe.pauses.storage_bytes_per_second,
        },
        "layout": {
            "data_parallel": _whole(layout.data_parallel),
            "tensor_parallel": _whole(layout.tensor_parallel),
            "sequence_parallel": bool(layout.sequence_parallel),
            "pipeline_parallel": _whole(layout.pipeline_parallel),
            "virtual_pipeline": _whole(layout.virtual_pipeline),
            "pipeline_schedule": layout.pipeline_schedule if layout.pipeline_parallel > 1 else None,
            "context_parallel": _whole(layout.context_parallel),
            "expert_parallel": _whole(layout.expert_parallel),
            "sharding": Sharding(int(layout.sharding)).name,
            "micro_batch_size": _whole(layout.micro_batch_size),
            "gradient_accumulation_steps": _whole(layout.gradient_accumulation_steps),
            "global_batch_size": _whole(layout.global_batch_size),
            "recompute": recompute_words(layout),
            "offload": list(offload_words(layout)),
            "stack": layout.stack,
            "cuda_graph": layout.execution.cuda_graph,
            "moe_dispatcher": layout.execution.dispatcher,
            "overlap": _listed(layout.execution.overlap),
        },
        "verdict": e.verdict,
        "memory": {
            "capacity_bytes": memory.capacity_bytes,
            "available_bytes": memory.available_bytes,
            "peak_bytes": _whole(memory.peak_bytes),
            "peak_allocated_bytes": _whole(memory.peak_allocated_bytes),
            "peak_reserved_bytes": _whole(memory.peak_reserved_bytes),
            "library_workspace_bytes": _whole(memory.library_workspace_bytes),
            "uncertainty_bytes": _whole(memory.uncertainty_bytes),
            "headroom_bytes": memory.available_bytes - (_whole(memory.peak_bytes) or 0),
            "host_bytes": _whole(memory.host_bytes),
            "host_available_bytes": _whole(memory.host_available_bytes),
            "peak_phase": memory.peak_phase,
            "peak_stage": memory.peak_stage,
            "peak_where": memory.peak_where,
            "breakdown_bytes": _adding_up(memory.breakdown_bytes, _whole(memory.peak_bytes) or 0),
            "evidence": dict(memory.evidence),
            "not_modelled": list(memory.not_modelled),
            "timeline": None,
        },
        "limits": {
            "largest_micro_batch_size": None,
            "longest_sequence_length": None,
            "fewest_gpus": None,
        },
        "remedies": [],
        "time": {
            "step_seconds": float(e.step.step_seconds),
            "tokens_per_second": float(run.tokens_per_second),
            "tokens_per_second_per_gpu": float(run.tokens_per_second_per_gpu),
            "model_tflops_per_gpu": float(run.model_tflops_per_gpu),
            "model_flops_utilization": float(run.model_flops_utilization),
            "hardware_flops_utilization": float(run.hardware_flops_utilization),
            "model_tflops_per_gpu_full_square": float(run.model_tflops_per_gpu_full_square),
            "model_flops_utilization_full_square": float(run.model_flops_utilization_full_square),
            "peak_tflops_per_gpu": run.peak_tflops_per_gpu,
            "breakdown_seconds": {k: float(v) for k, v in e.step.breakdown_seconds.items()},
            "steps": _whole(run.steps),
            "training_seconds": _real(run.training_seconds),
            "evaluation_seconds": _real(run.evaluation_seconds),
            "checkpoint_seconds": _real(run.checkpoint_seconds),
            "gpu_hours": _real(run.gpu_hours),
            "uncertainty_fraction": e.time_uncertainty,
        },
        "budget": {
            "cost_usd": _real(e.cost_usd),
            "energy_kwh": None,
            "carbon_kg": None,
            "goodput_fraction": None,
            "calendar_days": None
            if run.training_seconds is None
            else float(run.training_seconds) / SECONDS_PER_DAY,
        },
        "assumptions": list(e.assumptions),
        "warnings": list(e.warnings),
    }


def fit_json(answer: FitAnswer) -> dict[str, Any]:
    """The answer of `planner fit`, but for the timeline."""
    document = estimate_json(answer.estimate)
    document["limits"] = {
        "largest_micro_batch_size": answer.limits.largest_micro_batch_size,
        "longest_sequence_length": answer.limits.longest_sequence_length,
        "fewest_gpus": answer.limits.fewest_gpus,
    }
    document["oom"] = None if answer.oom is None else oom_json(answer.oom)
    document["micro_batches"] = [
        {
            "micro_batch_size": row.micro_batch_size,
            "activations_bytes": _whole(row.activations_bytes),
            "peak_bytes": _whole(row.peak_bytes),
            "verdict": row.verdict,
        }
        for row in answer.table
    ]
    document["remedies"] = [remedy_json(remedy) for remedy in answer.remedies]
    return document


def answer_json(answer: FitAnswer) -> dict[str, Any]:
    """The whole answer, with the timeline of its memory."""
    document = fit_json(answer)
    document["memory"]["timeline"] = timeline_json(answer.estimate.timeline)
    return document


def answers_json(answers: Sequence[FitAnswer]) -> dict[str, Any]:
    """One answer as it is; several under "estimates", without their timelines."""
    if len(answers) == 1:
        return answer_json(answers[0])
    documents = [fit_json(answer) for answer in answers]
    return {"schema_version": SCHEMA_VERSION, "estimates": documents}


def _adding_up(parts: dict[str, float], total: int) -> dict[str, int]:
    """Whole bytes that add up to the total: rounding is settled in the largest part."""
    whole = {name: round(value) for name, value in parts.items()}
    largest = max(whole, key=lambda name: whole[name])
    whole[largest] += total - sum(whole.values())
    return whole


def _tokens(e: Estimate) -> int | None:
    if e.recipe.tokens is not None:
        return _whole(e.recipe.tokens)
    if e.run.steps is None:
        return None
    return _whole(e.run.steps * e.layout.global_batch_size * e.recipe.sequence_length)


def _listed(words: tuple[str, ...] | None) -> list[str] | None:
    return None if words is None else list(words)


def _whole(value: Any) -> int | None:
    return None if value is None else round(float(value))


def _real(value: Any) -> float | None:
    return None if value is None else float(value)
