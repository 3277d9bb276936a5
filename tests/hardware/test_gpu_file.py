"""Files of GPUs and nodes that are wrong: one error, with file, line and field."""

from __future__ import annotations

import pytest

from planner.documents import parse
from planner.errors import InputError
from planner.hardware.gpu_file import read_gpu
from planner.hardware.node_file import read_node
from planner.resources import HARDWARE_PROFILES, shipped_folder

FOLDER = shipped_folder(HARDWARE_PROFILES)
H100 = (FOLDER / "gpus" / "h100-sxm-80gb.yaml").read_text("utf-8")
DGX = (FOLDER / "nodes" / "dgx-h100.yaml").read_text("utf-8")

MINIMAL = """\
id: my-gpu
name: My GPU
vendor: nvidia
architecture: Hopper
memory: {kind: HBM3, total: 80 GiB, bandwidth: 3.35 TB/s}
peak: {fp32: 60 TFLOPS, bf16: 900 TFLOPS}
sources: {memory: {seen: recalled}}
"""


def refusal(text, read=read_gpu):
    with pytest.raises(InputError) as caught:
        read(parse(text, "my.yaml", "yaml"))
    message = str(caught.value)
    assert "\n" not in message
    return message


def edited(text, old, new):
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times"
    line = text[: text.index(old)].count("\n") + 1
    return text.replace(old, new), line


def test_a_short_profile_is_enough():
    gpu = read_gpu(parse(MINIMAL, "my.yaml", "yaml"))
    assert gpu.memory_bytes == 80 * 2**30
    assert gpu.memory_bandwidth_bytes_per_second == 3.35e12
    assert gpu.peak_flops_per_second == {"fp32": 60e12, "bf16": 900e12}
    assert gpu.path == "my.yaml"
    assert gpu.link is None


@pytest.mark.parametrize(
    ("old", "new", "field", "told"),
    [
        ("total: 81559 MiB", "total: 80", "memory.total", "got 80, expected a size in GiB"),
        ("total: 81559 MiB", "total: 80 GB", "memory.total", "GB is a sales figure"),
        ("total: 81559 MiB", "total: 80 gib", "memory.total", "got '80 gib'"),
        ("total: 81559 MiB", "total: -80 GiB", "memory.total", "got '-80 GiB'"),
        ("total: 81559 MiB", "total: 0 GiB", "memory.total", "got '0 GiB'"),
        ("total: 81559 MiB", "total: true", "memory.total", "got true"),
        ("total: 81559 MiB", "total: null", "memory.total", "got null"),
        ("total: 81559 MiB", "total: 9000 TiB", "memory.total", "expected 1 to 4096 GiB"),
        ("usable: 81089 MiB", "usable: 70 GiB", "memory.usable", "0.95 to 1"),
        ("bandwidth: 3350 GB/s", "bandwidth: 3350 GB", "memory.bandwidth", "bytes per second"),
        ("bandwidth: 3350 GB/s", "bandwidth: 3350 Gbit/s", "memory.bandwidth", "400 Gb/s are 50"),
        ("bandwidth: 3350 GB/s", "bandwidth: 3.35 GB/s", "memory.bandwidth", "20 to 1"),
        ("bandwidth: 3350 GB/s", "bandwidth: 335 GB/s", "memory.bandwidth", "FLOPs per byte"),
        ("bf16: 989.4 TFLOPS", "bf16: 1978.9 TFLOPS", "peak.bf16", "sparse peak"),
        ("bf16: 989.4 TFLOPS", "bf16: 989.4 GFLOPS", "peak.bf16", "are 4 FLOPs per clock"),
        ("bf16: 989.4 TFLOPS", "bf16: 989.4", "peak.bf16", "a dense rate"),
        ("fp16: 989.4 TFLOPS", "fp16: 700 TFLOPS", "peak.fp16", "0.71 times bf16"),
        ("tf32: 494.7 TFLOPS", "tf32: 989.4 TFLOPS", "peak.tf32", "expected half"),
        ("fp8: 1978.9 TFLOPS", "fp8: 3957.8 TFLOPS", "peak.fp8", "4 times is the sparse peak"),
        ("int8: 1978.9 TFLOPS", "int8: 3957.8 TFLOPS", "peak.int8", "4 times is the sparse"),
        ("fp32: 66.9 TFLOPS", "fp32: 133.8 TFLOPS", "peak.fp32", "per clock"),
        ("boost_clock: 1830 MHz", "boost_clock: 1.83 MHz", "chip.boost_clock", "300 to 5000"),
        ("power_limit: 700 W", "power_limit: 700", "chip.power_limit", "a power"),
        ("multiprocessors: 132", "multiprocessors: 1.5", "chip.multiprocessors", "whole number"),
        ("rate: 450 GB/s", "rate: 900 GB/s", "link.rate", "are both directions added up?"),
        ("gpus_reached: 8", "gpus_reached: 0", "link.gpus_reached", "at least 1"),
        ("topology: switch", "topology: swich", "link.topology", "did you mean switch?"),
        ("latency: 10.2 us", "latency: 10.2", "link.latency", "a short time"),
        ("aliases: [h100, ", "aliases: [H100, ", "aliases[0]", "small letters"),
        ("id: h100-sxm-80gb", "id: ../h100", "id", "small letters"),
        ("usd_per_gpu_hour: 6.88", "usd_per_gpu_hour: -1", "price.usd_per_gpu_hour", "per hour"),
        ("usd_per_gpu_hour: 6.88", "usd_per_gpu_hour: .inf", None, "expected a finite number"),
        ("matmul_bf16: 794.5 TFLOPS", "matmul_bf16: 1589 TFLOPS", "measured.matmul_bf16", "above"),
    ],
)
def test_a_wrong_value_is_named(old, new, field, told):
    text, line = edited(H100, old, new)
    message = refusal(text)
    assert message.startswith(f"my.yaml:{line}: {field}" if field else f"my.yaml:{line}: ")
    assert told in message


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("  total: 81559 MiB ", "  # ", "missing field 'total'"),
        ("vendor: nvidia\n", "", "missing field 'vendor'"),
        ("vendor: nvidia", "vendro: nvidia", "unknown field 'vendro': did you mean vendor?"),
        ("  kind: HBM3", "  kind: HBM3\n  sms: 132", "unknown field 'sms'"),
        ("vendor: nvidia", "vendor: nvidia\nbandwidth: 3 TB/s", "belongs at memory.bandwidth"),
        ("vendor: nvidia", "vendor: nvidia\nvendor: amd", "duplicate key 'vendor', first on line"),
        ("  fp32: 66.9", "  bf32: 66.9", "unknown field 'bf32'"),
        ("  identity:\n", "  identty:\n", "unknown group 'identty': did you mean identity?"),
        ("rate: 63 GB/s", "rate: 40 GB/s", "generation 5 has 63 per direction"),
        ("{generation: 5,", "{generation: 2,", "not a generation with a known rate"),
    ],
)
def test_a_wrong_field_is_named(old, new, told):
    text, _ = edited(H100, old, new)
    message = refusal(text)
    assert message.startswith("my.yaml:")
    assert told in message


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("peak: {fp32: 60 TFLOPS, bf16: 900 TFLOPS}", "peak: {}", "at least one dense peak"),
        ("{memory: {seen: recalled}}", "{}", "expected where the values come from"),
        ("{seen: recalled}", "{seen: read}", "references must name where"),
        ("{seen: recalled}", "{seen: dreamt}", "expected one of read, recalled, mixed"),
        ("id: my-gpu\n", "", "missing field 'id'"),
        ("id: my-gpu", "- id: my-gpu", "not valid YAML"),
    ],
)
def test_a_short_profile_that_is_wrong(old, new, told):
    text, _ = edited(MINIMAL, old, new)
    assert told in refusal(text)


def test_sparse_peaks_are_refused_even_if_all_of_them_are():
    doubled = {"494.7": "989.4", "989.4": "1978.9", "1978.9": "3957.8"}
    lines = []
    for line in H100.splitlines():
        dtype, _, rest = line.strip().partition(": ")
        rate = rest.split(" ")[0]
        if dtype in ("tf32", "fp16", "bf16", "fp8", "int8"):
            line = line.replace(rate, doubled[rate])
        lines.append(line)
    assert "peak.bf16: 1978.9 TFLOPS are 8192 FLOPs per clock" in refusal("\n".join(lines))
    # Without a clock the fp32 rate still tells.
    unclocked = [line for line in lines if "boost_clock" not in line]
    assert "times fp32" in refusal("\n".join(unclocked))


def test_a_rule_may_be_broken_for_a_reason():
    text, _ = edited(H100, "fp8: 1978.9 TFLOPS", "fp8: 3957.8 TFLOPS")
    assert "list rule fp8_ratio with a reason under exceptions" in refusal(text)
    allowed = f"{text}\nexceptions:\n  - {{rule: fp8_ratio, reason: a test}}\n"
    assert read_gpu(parse(allowed, "my.yaml", "yaml")).peak("fp8") == 3957.8e12
    unknown = f"{text}\nexceptions:\n  - {{rule: fp8_ration, reason: a test}}\n"
    assert "exceptions[0].rule: unknown rule 'fp8_ration': did you mean fp8_ratio?" in refusal(
        unknown
    )


def test_a_host_that_is_slower():
    text, _ = edited(H100, "  network: 50 GB/s", "  host_slowdown: 1.5\n  network: 50 GB/s")
    assert read_gpu(parse(text, "my.yaml", "yaml")).host_slowdown == 1.5
    wrong = text.replace("host_slowdown: 1.5", "host_slowdown: 0")
    assert "node.host_slowdown: got 0, expected 0.1 to 10" in refusal(wrong)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("gpus_per_node: 8", "gpus_per_node: 0", "gpus_per_node: got 0"),
        ("gpus_per_node: 8\n", "", "missing field 'gpus_per_node'"),
        ("rate: 50 GB/s", "rate: 400 Gb/s", "network.rate: got '400 Gb/s', expected bytes"),
        (
            "rate: 50 GB/s",
            "rate: 50 GB/s\n  gpus_reached: 64",
            "expected oversubscription beside it",
        ),
        (
            "rate: 50 GB/s",
            "rate: 50 GB/s\n  oversubscription: 7",
            "expected gpus_reached beside it",
        ),
        (
            "rate: 50 GB/s",
            "rate: 50 GB/s\n  gpus_reached: 20\n  oversubscription: 7",
            "network.gpus_reached: got 20, expected whole nodes: a multiple of 8",
        ),
        (
            "rate: 50 GB/s",
            "rate: 50 GB/s\n  gpus_reached: 64\n  oversubscription: 0.5",
            "network.oversubscription: got 0.5, expected 1 (none) to 100",
        ),
        ("power: 10.2 kW", "power: 10.2", "power: got 10.2, expected a power"),
        ("host_memory: 2048 GiB", "host_memory: 2 TB", "host_memory: got '2 TB'"),
        ("  node:\n", "  gpu:\n", "unknown group 'gpu'"),
    ],
)
def test_a_node_that_is_wrong(old, new, told):
    text, _ = edited(DGX, old, new)
    assert told in refusal(text, read_node)
