"""Optimizers as rows: which state tensors each keeps per parameter tensor, and what a step needs.

A state is a shape rule and an element size. Rules
    full       as large as the parameter
    factored   one vector per axis of a matrix (Adafactor); a vector's state is full
    block8     8-bit codes with a float32 scale per block of 256 (bitsandbytes), full float32 for
               tensors of fewer than 4,096 elements
A state's itemsize is a number of bytes, or None: the parameter's own.
`matrices_only` states are kept for hidden matrices alone; the other tensors then use `others`.
"""

from __future__ import annotations

from dataclasses import dataclass

from planner.errors import unknown
from planner.model.operations import Weight

# bitsandbytes, functional.py and optim/optimizer.py: block size of the 8-bit states and the
# smallest tensor that is kept in 8 bits.
BLOCK_8BIT = 256
SMALLEST_8BIT = 4096


@dataclass(frozen=True)
class State:
    name: str
    rule: str = "full"
    itemsize: int | None = None


@dataclass(frozen=True)
class Optimizer:
    """states per tensor, temporaries of a step in parameter sizes, traffic of a step.

    temporary_parameters  tensors of all parameters' size that live during the step
                          (torch's foreach AdamW: one; measured in traced steps)
    reads_and_writes      times that a state or a parameter crosses the memory bus in a fused step
    paged                 offloaded, its states are pages of the host's memory that its kernels
                          on the GPU read and write; else it steps on the CPUs
    others                the optimizer of embeddings, heads and vectors, if not this one
    evidence              how the row is known
    """

    name: str
    states: tuple[State, ...]
    temporary_parameters: float = 0.0
    paged: bool = False
    others: str | None = None
    evidence: str = "exact"
    source: str = ""


OPTIMIZERS = {
    row.name: row
    for row in (
        Optimizer(
            "adamw",
            (State("exp_avg"), State("exp_avg_sq")),
            temporary_parameters=1.0,
            source="Loshchilov & Hutter 2019, algorithm 2; torch.optim.AdamW, foreach",
        ),
        Optimizer(
            "adamw-8bit",
            (State("state1", "block8"), State("state2", "block8")),
            paged=True,
            source="Dettmers et al. 2022, section 2; bitsandbytes AdamW8bit, PagedAdamW8bit",
        ),
        Optimizer("sgd", (), source="torch.optim.SGD, foreach"),
        Optimizer("sgd-momentum", (State("momentum_buffer"),), source="torch.optim.SGD, foreach"),
        Optimizer(
            "adafactor",
            (State("exp_avg_sq", "factored", 4),),
            temporary_parameters=1.0,
            evidence="assumed",
            source="Shazeer & Stern 2018, algorithm 4, without momentum; the step's one update",
        ),
        Optimizer(
            "lion", (State("exp_avg"),), evidence="exact", source="Chen et al. 2023, algorithm 2"
        ),
        Optimizer(
            "muon",
            (State("momentum_buffer"),),
            others="adamw",
            evidence="assumed",
            source="Jordan et al. 2024; Moonlight 2025: hidden matrices by Muon, the rest by AdamW",
        ),
    )
}


def optimizer(name: str) -> Optimizer:
    if name not in OPTIMIZERS:
        raise unknown("optimizer", name, OPTIMIZERS)
    return OPTIMIZERS[name]


def rule_for(row: Optimizer, weight: Weight) -> Optimizer:
    """The optimizer that really serves this tensor."""
    hidden_matrix = weight.kind in ("matrix", "expert") and "lm_head" not in weight.name
    return row if row.others is None or hidden_matrix else OPTIMIZERS[row.others]


def state_bytes_per_element(state: State, weight: Weight, itemsize: float) -> float:
    """Bytes of one state per element of the parameter [bytes/element].

    itemsize: the element size of the tensor that the optimizer updates.
    """
    own = itemsize if state.itemsize is None else state.itemsize
    elements = weight.elements
    if state.rule == "block8":
        small = elements < SMALLEST_8BIT
        return 4.0 if small else 1.0 + 4.0 / BLOCK_8BIT
    if state.rule == "factored" and len(weight.shape) >= 2:
        *lead, rows, columns = weight.shape
        count = 1
        for n in lead:
            count *= n
        return own * count * (rows + columns) / elements
    return float(own)
