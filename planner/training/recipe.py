"""How a model is trained, apart from where: tokens, sequence, precision, optimizer, fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finetune:
    """method: "lora" or "qlora" (frozen 4-bit base); rank and the linears that get adapters."""

    method: str
    rank: int
    targets: tuple[str, ...]
    quantize: str | None = None


@dataclass(frozen=True)
class Pauses:
    """What stops training now and then; None: never, or not told.

    evaluation_every_steps, evaluation_steps  after so many steps, so many batches forward alone
    checkpoint_every_steps     after so many steps all of the training state is written
    storage_bytes_per_second   what all GPUs together write it with; training waits
    """

    evaluation_every_steps: int | None = None
    evaluation_steps: int | None = None
    checkpoint_every_steps: int | None = None
    storage_bytes_per_second: float | None = None


@dataclass(frozen=True)
class Recipe:
    """One training recipe; tokens or steps may be left open.

    attention      "flash" or "eager"
    cross_entropy  "standard", "fused" or "chunked"
    weight_transposes  fp8 products read a transposed copy of each weight (training.precision)
    gradients  "bf16": kept and reduced in 16 bits; None: as the precision and the stack have them
    """

    sequence_length: int
    precision: str = "bf16-mixed"
    optimizer: str = "adamw"
    attention: str = "flash"
    cross_entropy: str = "standard"
    compile: bool = False
    finetune: Finetune | None = None
    gradients: str | None = None
    weight_transposes: bool = True
    tokens: float | None = None
    steps: float | None = None
    pauses: Pauses = Pauses()
