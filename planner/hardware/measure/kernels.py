"""Products, those of experts, attention and memory traffic of one GPU, as measured tables' rows.

Columns and conventions: planner/validation/data/kernels/README.md. A shape that the device has no
memory or no kernel for is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from planner.hardware.measure.timing import Timer

Row = dict[str, str]
FP8_LARGEST = 448.0  # of float8_e4m3fn
# Tokens by (n, k): projections and feed-forwards of models from 1 to 70 billion parameters.
TOKENS = (256, 1024, 4096, 16384)
WEIGHTS = (
    (1024, 1024), (2048, 2048), (2048, 8192), (4096, 4096), (6144, 4096), (4096, 14336),
    (28672, 4096), (8192, 8192), (8192, 28672), (32000, 4096),
)  # fmt: skip
# Large enough to reach the power limit: at least eight, as the fit of the ratio asks.
SUSTAINED = tuple((m, n, k) for m in (4096, 16384) for n, k in WEIGHTS if min(n, k) >= 2048)
# batch, sequence, query heads, key heads, head size
ATTENTION = tuple(
    (batch, sequence, heads, keys, size)
    for (batch, sequence), (heads, keys), size in product(
        ((8, 512), (4, 1024), (2, 2048), (1, 4096), (1, 8192), (1, 16384)),
        ((16, 16), (32, 8)),
        (64, 128),
    )
)  # fmt: skip
# Groups, rows of each, outputs, inputs: experts of DeepSeek-V3, Mixtral and Qwen3-30B-A3B.
GROUPED = (
    (4, 8192, 4096, 7168), (8, 4096, 7168, 2048), (32, 1024, 4096, 7168), (2, 8192, 28672, 4096),
    (8, 2048, 4096, 14336), (16, 2048, 1536, 2048), (16, 2048, 2048, 768), (128, 256, 1536, 2048),
)  # fmt: skip
BACKENDS = {"flash_attention_2": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
MOVED_ROWS = (1024, 4096, 16384)
MOVED_COLUMNS = (1024, 4096, 8192)


def products(timer: Timer, gpu: str, dtypes: Sequence[str], few: bool = False) -> Iterator[Row]:
    """C[m,n] = A[m,k] B[n,k] in each dtype, as bursts and as long work."""
    shapes = [(m, n, k) for m, (n, k) in product(TOKENS, WEIGHTS)]
    for dtype in dtypes:
        for run, chosen in (("burst", shapes), ("sustained", SUSTAINED)):
            for m, n, k in chosen[:: len(chosen) // 2 if few else 1]:
                yield from _possible(partial(_product, timer, gpu, dtype, run, m, n, k))


def _product(timer: Timer, gpu: str, dtype: str, run: str, m: int, n: int, k: int) -> Row:
    a = torch.randn(m, k, dtype=torch.bfloat16, device=timer.device)
    b = torch.randn(n, k, dtype=torch.bfloat16, device=timer.device)
    cast = 0.0
    kernel: Callable[[], object] = partial(functional.linear, a, b)
    clock = timer.burst if run == "burst" else timer.sustained
    if dtype == "fp8":
        b8, scale_b = _to_fp8(b)
        a8, scale_a = _to_fp8(a)
        cast = clock(partial(_to_fp8, a))
        scaled = partial(torch._scaled_mm, scale_a=scale_a, scale_b=scale_b)
        kernel = partial(scaled, a8, b8.t(), out_dtype=torch.bfloat16)
    seconds = clock(kernel) + cast
    return {
        "gpu": gpu,
        "dtype": dtype,
        "m": str(m),
        "n": str(n),
        "k": str(k),
        "microseconds": _microseconds(seconds),
        "run": run,
        "watts": "",
        "quantise_microseconds": _microseconds(cast) if cast else "",
        "source": _source(),
    }


def _to_fp8(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """With one scale of the tensor, worked out now."""
    scale = x.abs().amax().float() / FP8_LARGEST
    return (x / scale).to(torch.float8_e4m3fn), scale


def grouped(timer: Timer, gpu: str, few: bool = False) -> Iterator[Row]:
    """A linear layer of several experts in one kernel, forward and backward, as long work."""
    for shape in GROUPED[:: len(GROUPED) // 2 if few else 1]:
        yield from _possible(partial(_grouped, timer, gpu, *shape))


def _grouped(timer: Timer, gpu: str, groups: int, rows: int, outputs: int, inputs: int) -> Row:
    operand = partial(torch.randn, dtype=torch.bfloat16, device=timer.device, requires_grad=True)
    x, weight = operand(groups * rows, inputs), operand(groups, inputs, outputs)
    ends = torch.arange(1, groups + 1, dtype=torch.int32, device=timer.device) * rows
    gradient = torch.randn(groups * rows, outputs, dtype=torch.bfloat16, device=timer.device)

    def there_and_back() -> object:
        out = functional.grouped_mm(x, weight, offs=ends)
        return torch.autograd.grad(out, (x, weight), gradient)

    return {
        "gpu": gpu,
        "dtype": "bf16",
        "pass": "forward+backward",
        "layout": "grouped, one linear",
        "groups": str(groups),
        "m_per_group": str(rows),
        "n": str(outputs),
        "k_per_group": str(inputs),
        "microseconds": _microseconds(timer.sustained(there_and_back)),
        "tflops_per_second": "",
        "fraction_of_dense_peak": "",
        "note": "",
        "source": _source(),
    }


def attention(timer: Timer, gpu: str, few: bool = False) -> Iterator[Row]:
    """Fused attention forward and backward, causal and full."""
    for (name, backend), causal in product(BACKENDS.items(), (True, False)):
        for shape in ATTENTION[:: len(ATTENTION) // 2 if few else 1]:
            for direction in ("forward", "backward"):
                yield from _possible(
                    partial(_attention, timer, gpu, name, backend, causal, direction, shape)
                )


def _attention(
    timer: Timer,
    gpu: str,
    name: str,
    backend: SDPBackend,
    causal: bool,
    direction: str,
    shape: tuple[int, int, int, int, int],
) -> Row:
    batch, sequence, heads, keys, size = shape

    def operand(count: int) -> torch.Tensor:
        return torch.randn(
            batch, count, sequence, size,
            dtype=torch.bfloat16, device=timer.device, requires_grad=True,
        )  # fmt: skip

    q, k, v = operand(heads), operand(keys), operand(keys)

    def forward() -> torch.Tensor:
        with sdpa_kernel(backend):
            return functional.scaled_dot_product_attention(
                q, k, v, is_causal=causal, enable_gqa=keys < heads
            )

    kernel: Callable[[], object] = forward
    if direction == "backward":
        out = forward()
        gradient = torch.randn_like(out)
        kernel = partial(torch.autograd.grad, out, (q, k, v), gradient, retain_graph=True)
    return {
        "gpu": gpu,
        "dtype": "bf16",
        "pass": direction,
        "causal": str(int(causal)),
        "batch": str(batch),
        "sequence": str(sequence),
        "query_heads": str(heads),
        "kv_heads": str(keys),
        "head_dim": str(size),
        "value_head_dim": str(size),
        "window": "",
        "microseconds": _microseconds(timer.burst(kernel)),
        "kernel": name,
        "source": _source(),
    }


def movements(timer: Timer, gpu: str, few: bool = False) -> Iterator[Row]:
    """A copy, and an RMSNorm: each input read and each output written once."""
    for rows, columns in product(MOVED_ROWS[: 1 if few else None], MOVED_COLUMNS):
        x = torch.randn(rows, columns, dtype=torch.bfloat16, device=timer.device)
        out, weight = torch.empty_like(x), torch.ones_like(x[0])
        kernels: dict[str, Callable[[], object]] = {
            "copy": partial(out.copy_, x),
            "rms_norm": partial(functional.rms_norm, x, (columns,), weight),
        }
        for operation, kernel in kernels.items():
            yield {
                "gpu": gpu,
                "operation": operation,
                "implementation": "torch",
                "pass": "no-grad-forward",
                "dtype": "bf16",
                "rows": str(rows),
                "columns": str(columns),
                "microseconds": _microseconds(timer.burst(kernel)),
                "bytes": str(2 * 2 * rows * columns),
                "detail": "",
                "source": _source(),
            }


def _possible(measure: Callable[[], Row]) -> Iterator[Row]:
    """The row, if the device has the memory and the kernel for it."""
    try:
        yield measure()
    except (torch.OutOfMemoryError, NotImplementedError):
        return
    except RuntimeError as error:  # torch's words for "no kernel for these shapes"
        if not any(word in str(error) for word in ("No available kernel", "not supported")):
            raise


def _microseconds(seconds: float) -> str:
    return f"{seconds * 1e6:.4g}"


def _source() -> str:
    return f"calibrate torch-{torch.__version__}"
