"""Parameters of a model as PyTorch and Transformers build it on the meta device: no weights.

For model types that no family here knows, where the two happen to be installed (extra `torch`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.documents import load
from planner.errors import InputError, MissingPartError


@dataclass(frozen=True)
class TracedTensor:
    name: str
    shape: tuple[int, ...]
    elements: int


@dataclass(frozen=True)
class TracedModel:
    """total: tied weights once, buffers not at all."""

    name: str
    architecture: str
    total: int
    tensors: tuple[TracedTensor, ...]
    versions: str


def trace(argument: str) -> TracedModel:
    """Build the model of a config.json (or its folder) and count what it has."""
    path = Path(argument)
    path = path / "config.json" if path.is_dir() else path
    fields = load(path, allow_infinity=True).data
    if not isinstance(fields, Mapping):
        raise InputError(f"{path}: expected a mapping of fields, as in a config.json")
    try:
        import torch
        import transformers
    except ImportError as error:
        raise MissingPartError(
            f"--trace needs PyTorch and Transformers: {error.name} is not installed",
            "pip install 'llm-training-planner[torch]'",
        ) from None
    model = _on_meta(torch, transformers, dict(fields), path)
    found = tuple(
        TracedTensor(name, tuple(tensor.shape), tensor.numel())
        for name, tensor in model.named_parameters()
    )
    return TracedModel(
        name=path.resolve().parent.name if path.stem == "config" else path.stem,
        architecture=type(model).__name__,
        total=sum(tensor.elements for tensor in found),
        tensors=found,
        versions=f"torch {torch.__version__}, transformers {transformers.__version__}",
    )


def _on_meta(torch: Any, transformers: Any, fields: dict[str, Any], path: Path) -> Any:
    """The class that `architectures` names, else what the causal Auto class builds."""
    kind = fields.pop("model_type", None)
    try:
        config = transformers.AutoConfig.for_model(kind, **fields)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"{path}: Transformers cannot read this config: {reason}") from None
    named = (fields.get("architectures") or [None])[0]
    cls = getattr(transformers, named, None) if isinstance(named, str) else None
    with torch.device("meta"):
        try:
            if cls is not None:
                return cls(config)
            return transformers.AutoModelForCausalLM.from_config(config)
        except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:160]
            raise InputError(f"{path}: Transformers cannot build it: {reason}") from None
