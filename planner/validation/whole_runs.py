"""Published totals of whole runs, whose layout nobody tells: what is assumed instead.

The GPUs are a usual number, the batch a usual number of tokens, and the model is split over as few
of them as hold it. GPU-hours depend little on the first two while each GPU has enough to do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from planner.validation.runs import Run

ASSUMED_GPUS = 1024
ASSUMED_TOKENS_PER_STEP = 2**22  # of Llama 1 and 2; GPT-3's 3.2 million is near it
PASSES_PER_STAGE = 4  # fewer would leave a pipeline idle for more than a fifth of the time
# Tensor and pipeline parallel sizes, fewest splits first; tensor parallelism stays in the node.
SPLITS = ((1, 1), (2, 1), (4, 1), (8, 1), (8, 2), (8, 4), (8, 8), (8, 16))


def is_total(run: Run) -> bool:
    return run.tokens is not None and run.gpu_hours is not None


def layouts(run: Run) -> Iterator[tuple[Run, tuple[str, ...]]]:
    """The row with what it leaves open filled in, and what that was; a told layout stays."""
    if not is_total(run) or run.sequence_length is None:
        yield run, ()
    elif run.gpus is not None or run.data_parallel is not None:
        yield batched(run)
    else:
        for tensor, pipeline in SPLITS:
            split = replace(
                run,
                gpus=ASSUMED_GPUS,
                tensor_parallel=tensor,
                pipeline_parallel=pipeline,
                micro_batch_size=1,
            )
            filled, notes = batched(split)
            told = f"{ASSUMED_GPUS} GPUs, tensor parallel {tensor}, pipeline parallel {pipeline}"
            yield filled, (f"{told}: the fewest splits that hold the model", *notes)


def batched(run: Run) -> tuple[Run, tuple[str, ...]]:
    """A batch of whole micro-batches, where the row has none."""
    if run.global_batch_size is not None or run.gradient_accumulation_steps is not None:
        return run, ()
    assert run.sequence_length is not None
    parts = (run.tensor_parallel, run.pipeline_parallel, run.context_parallel)
    share = 1
    for part in parts:
        share *= part or 1
    ranks = run.data_parallel or max((run.gpus or share) // share, 1)
    each = ranks * (run.micro_batch_size or 1)
    least = 1 if run.pipeline_parallel in (None, 1) else PASSES_PER_STAGE * run.pipeline_parallel
    passes = max(round(ASSUMED_TOKENS_PER_STEP / run.sequence_length / each), least)
    note = (
        f"global_batch_size {passes * each}: near {ASSUMED_TOKENS_PER_STEP:,} tokens a step, "
        f"at least {least} passes"
    )
    return replace(run, global_batch_size=passes * each), (note,)
