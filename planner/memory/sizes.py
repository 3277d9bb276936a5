"""Sizes as vectors over what multiplies them, so that one play serves every micro-batch and layout.

bytes = sum over columns of size x (what the column is multiplied by)
"""

from __future__ import annotations

BASIS = (
    "tokens_whole",  # bytes per token, every tensor-parallel rank has all of it
    "tokens_sequence",  # bytes per token of the residual stream (divided by sequence parallelism)
    "tokens_tensor",  # bytes per token, divided by tensor_parallel
    "tokens_expert",  # bytes per token that the routed experts of a rank see
    "tokens_alone",  # bytes per token of a tensor-parallel split, if a micro-batch is one sequence
    "tokens_together",  # ... if it is more than one
    "positions",  # bytes per position of a sequence, whatever the micro-batch (rotary tables)
    "fixed",  # bytes whatever the micro-batch and the sequence
    "gradient_whole",  # elements of weight gradients made so far, not divided
    "gradient_tensor",  # ... divided by tensor_parallel
    "gradient_expert",  # ... divided by expert parallelism
)
COLUMN = {name: index for index, name in enumerate(BASIS)}
Size = tuple[float, ...]
ZERO: Size = (0.0,) * len(BASIS)


def size(column: str, amount: float) -> Size:
    """An amount in one column."""
    index = COLUMN[column]
    return tuple(amount if i == index else 0.0 for i in range(len(BASIS)))


def plus(*sizes: Size) -> Size:
    """Their sum, column by column."""
    return tuple(map(sum, zip(*sizes, strict=True))) if sizes else ZERO
