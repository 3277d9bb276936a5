"""Sensitivities as JSON and as rows and sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from fractions import Fraction
from typing import Any

from planner.advice.closed_form import POWERS, ClosedForm
from planner.advice.sensitivity import ROW_FIELDS, Sensitivity, SensitivityRow
from planner.advice.sizes import Sizes
from planner.advice.variations import SYMBOLS, WIDTH
from planner.model.spec import ModelSpec
from planner.report.view import UNKNOWN, Table
from planner.units import format_memory

_POWER_SIGNS = {-1: " / {x}", 0: "", 1: " {x}", 2: " {x}²"}
# Exponents of groups below this are not told.
_SMALLEST_TOLD = 0.00005


def as_json(answer: Sensitivity) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "model": answer.model.name,
        "sequence_length": answer.sequence_length,
        "micro_batch_size": answer.micro_batch_size,
        "rows": [asdict(row) for row in answer.rows],
        "closed_forms": [
            {
                "field": field,
                "value": 1 if field == WIDTH else answer.values[field],
                "parameters": expression(field, form),
                "local_exponent_by_group": {
                    group: float(part) for group, part in form.exponents.items() if part
                },
            }
            for field, form in answer.forms.items()
        ],
    }


def table(answer: Sensitivity) -> Table:
    timed = any(row.step_time_ratio is not None for row in answer.rows)
    columns = (
        *("field", "change", "parameters", "weights", "optimizer", "activations"),
        *("FLOPs/token", "KV cache", *(("step time",) if timed else ()), "exponent", ""),
    )
    rows: list[tuple[str, ...]] = []
    for field in ROW_FIELDS:
        first = True
        for row in answer.rows:
            if row.field == field:
                label = _label(field, answer) if first else ""
                rows.append((label, *_cells(row, timed)))
                first = False
    title = (
        f"{answer.model.name} at sequence {answer.sequence_length}, micro-batch "
        f"{answer.micro_batch_size}: new / old"
    )
    return Table(title, columns, tuple(rows), frozenset(range(2, len(columns) - 1)))


def _label(field: str, answer: Sensitivity) -> str:
    values = {
        **answer.values,
        "sequence_length": answer.sequence_length,
        "micro_batch_size": answer.micro_batch_size,
    }
    symbol = f" {SYMBOLS[field]}" if field in SYMBOLS else ""
    return f"{field}{symbol}" + (f" {values[field]}" if field in values else "")


def _cells(row: SensitivityRow, timed: bool) -> tuple[str, ...]:
    ratios = [
        row.parameters_ratio,
        row.weights_memory_ratio,
        row.optimizer_memory_ratio,
        row.activation_memory_ratio,
        row.flops_per_token_ratio,
        row.kv_cache_ratio,
        *((row.step_time_ratio,) if timed else ()),
    ]
    exponent = UNKNOWN if row.local_exponent is None else f"{row.local_exponent:.4f}"
    change = UNKNOWN if row.factor is None else f"x {row.factor:.5g}"
    told = (UNKNOWN if ratio is None else f"{ratio:.4f}" for ratio in ratios)
    return (change, *told, exponent, row.reason or "")


def sentences(answer: Sensitivity) -> Iterator[str]:
    """The closed form of each field in the model's own numbers, and what makes its exponent."""
    for field, form in answer.forms.items():
        symbol = "x" if field == WIDTH else SYMBOLS[field]
        value = "times x" if field == WIDTH else f"{symbol} = {answer.values[field]:,}"
        parts = [
            f"{_words(group)} {float(part):.4f}"
            for group, part in sorted(form.exponents.items(), key=lambda item: -abs(item[1]))
            if abs(part) >= _SMALLEST_TOLD
        ]
        line = (
            f"{field}, {value}: N = {expression(field, form)}; exponent {float(form.exponent):.4f}"
        )
        if len(parts) > 1:
            line += f" = {' + '.join(parts)}".replace("+ -", "- ")
        if parts:
            group, power = form.leading
            index = POWERS.index(power)
            term = _term(form.coefficients[group][index], power, symbol)
            line += f", made by {term} ({_words(group)})"
        yield line
    for field in (*SYMBOLS, WIDTH):
        known = [r.local_exponent for r in answer.rows if r.field == field and r.local_exponent]
        if field not in answer.forms and known:
            yield f"{field}: no closed form; exponent {known[0]:.4f} between legal neighbours"


def expression(field: str, form: ClosedForm) -> str:
    """The count of all parameters in one field, with the model's own numbers.

    >>> form = ClosedForm(Fraction(2), {"all": tuple(map(Fraction, (0, 5, 1200, 0)))})
    >>> expression("num_hidden_layers", form)
    '1,200 L + 5'
    """
    symbol = "x" if field == WIDTH else SYMBOLS[field]
    terms = [
        _term(c, power, symbol)
        for power, c in sorted(zip(POWERS, form.total, strict=True), reverse=True)
        if c
    ]
    return " + ".join(terms).replace("+ -", "- ") or "0"


def _term(coefficient: Fraction, power: int, symbol: str) -> str:
    whole = coefficient.denominator == 1
    shown = f"{int(coefficient):,}" if whole else f"{float(coefficient):,.6g}"
    return shown + _POWER_SIGNS[power].format(x=symbol)


def _words(group: str) -> str:
    return group.replace("_", " ")


def models_json(sizes: Sequence[tuple[ModelSpec, Sizes]], sequence_length: int) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "sequence_length": sequence_length,
        "models": [
            {
                "model": spec.name,
                "model_type": spec.model_type,
                "layers": len(spec.layers),
                "hidden_size": spec.hidden_size,
                "parameters": size.parameters,
                "active_parameters": size.count.active,
                "weights_bytes": round(size.weight_bytes),
                "optimizer_bytes": round(size.optimizer_bytes),
                "activation_bytes": None
                if size.activation_bytes is None
                else round(size.activation_bytes),
                "training_flops_per_token": size.flops_per_token,
                "kv_cache_bytes": round(size.cache_bytes),
            }
            for spec, size in sizes
        ],
    }


def models_table(sizes: Sequence[tuple[ModelSpec, Sizes]], sequence_length: int) -> Table:
    columns = (
        *("model", "layers", "hidden size", "parameters", "active", "weights", "optimizer"),
        *("activations", "GFLOP/token", "KV cache"),
    )
    rows = tuple(
        (
            spec.name,
            str(len(spec.layers)),
            f"{spec.hidden_size:,}",
            f"{size.parameters:,}",
            f"{size.count.active:,}",
            format_memory(size.weight_bytes),
            format_memory(size.optimizer_bytes),
            UNKNOWN if size.activation_bytes is None else format_memory(size.activation_bytes),
            f"{size.flops_per_token / 1e9:,.2f}",
            format_memory(size.cache_bytes),
        )
        for spec, size in sizes
    )
    title = (
        f"Side by side at sequence {sequence_length}: float32 weights, AdamW, what the layers keep "
        "without recompute, training FLOPs, keys and values in bf16"
    )
    return Table(title, columns, rows, frozenset(range(1, len(columns))))
