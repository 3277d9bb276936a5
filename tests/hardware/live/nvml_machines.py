"""Described machines for the fake NVML library: boards as NVML shows them, put together as nodes.

Memory totals, names, capabilities and limits are those of hardware_profiles/ (as nvidia-smi reports
them); core counts are multiprocessors x cores of the capability; the rest is made up.
"""

from __future__ import annotations

from dataclasses import dataclass, field

MIB = 2**20
GIB = 2**30

Lines = tuple[str, ...]


@dataclass(frozen=True)
class Board:
    """A GPU or MIG instance: "key" -> value lines, and lines that may repeat (links, processes)."""

    values: dict[str, str]
    more: Lines = ()
    instances: tuple[tuple[int, Board], ...] = ()

    def having(self, *more: str) -> Board:
        """The same with further lines."""
        return Board(self.values, self.more + more, self.instances)

    def but(self, **values: str | None) -> Board:
        """The same with other values; None takes a line away."""
        changed = {**self.values, **values}
        kept = {key: value for key, value in changed.items() if value is not None}
        return Board(kept, self.more, self.instances)

    def text(self, kind: str = "gpu") -> str:
        lines = [kind, *(f"  {key} {value}" for key, value in self.values.items())]
        lines += [f"  {line}" for line in self.more]
        text = "\n".join(lines) + "\n"
        return text + "".join(one.text(f"instance {slot}") for slot, one in self.instances)


@dataclass(frozen=True)
class Machine:
    """What stands in the machine file."""

    gpus: tuple[Board, ...]
    driver: str = "550.90.07"
    cuda: int = 12040
    system: Lines = field(default=())

    @property
    def branch(self) -> int:
        """The driver's branch, for which the library is compiled."""
        return int(self.driver.split(".")[0])

    def text(self) -> str:
        head = [f"driver {self.driver}", f"cuda {self.cuda}", *self.system]
        return "\n".join(head) + "\n" + "".join(gpu.text() for gpu in self.gpus)


def uuid(number: int, prefix: str = "GPU") -> str:
    return f"{prefix}-{number:08x}-1111-2222-3333-{number:012x}"


def pci(number: int) -> str:
    return f"00000000:{0x10 + number:02X}:00.0"


def board(
    number: int,
    *,
    name: str,
    total_mib: int,
    capability: str,
    cores: int,
    watts: int,
    clocks: tuple[int, int],
    bus_width: int,
    pcie: str,
    reserved_mib: int = 600,
    used_mib: int = 4,
) -> Board:
    """A healthy, idle board. At rest its link runs in the first generation, and it says idling."""
    generation, width = pcie.split()
    return Board(
        {
            "name": name,
            "uuid": uuid(number + 1),
            "pci": pci(number),
            "memory": f"{total_mib * MIB} {reserved_mib * MIB} {used_mib * MIB}",
            "capability": capability,
            "cores": str(cores),
            "bus_width": str(bus_width),
            "clock_sm": f"{clocks[0]} 345",
            "clock_memory": f"{clocks[1]} {clocks[1]}",
            "power_enforced": str(watts * 1000),
            "power_default": str(watts * 1000),
            "power_usage": "70000",
            "ecc": "1",
            "throttle": "0x1",
            "compute_mode": "0",
            "pcie": f"1 {width} {generation} {width}",
            "mig": "0",
        }
    )


def h100(number: int) -> Board:
    return board(
        number,
        name="NVIDIA H100 80GB HBM3",
        total_mib=81559,
        capability="9.0",
        cores=132 * 128,
        watts=700,
        clocks=(1980, 2619),
        bus_width=5120,
        pcie="5 16",
    )


def rtx_4090(number: int) -> Board:
    return board(
        number,
        name="NVIDIA GeForce RTX 4090",
        total_mib=24564,
        capability="8.9",
        cores=128 * 128,
        watts=450,
        clocks=(3105, 10501),
        bus_width=384,
        pcie="4 16",
    ).but(ecc=None, mig=None)


def rtx_3090(number: int) -> Board:
    return board(
        number,
        name="NVIDIA GeForce RTX 3090",
        total_mib=24576,
        capability="8.6",
        cores=82 * 128,
        watts=350,
        clocks=(2100, 9751),
        bus_width=384,
        pcie="4 16",
    ).but(ecc=None, mig=None)


def a100(number: int) -> Board:
    return board(
        number,
        name="NVIDIA A100-SXM4-40GB",
        total_mib=40960,
        capability="8.0",
        cores=108 * 64,
        watts=400,
        clocks=(1410, 1215),
        bus_width=5120,
        pcie="4 16",
    )


def v100(number: int) -> Board:
    """As a driver of 2021 shows it: a little less memory."""
    return board(
        number,
        name="Tesla V100-SXM2-16GB",
        total_mib=16160,
        capability="7.0",
        cores=80 * 64,
        watts=300,
        clocks=(1530, 877),
        bus_width=4096,
        pcie="3 16",
    ).but(mig=None)


def gb10(number: int) -> Board:
    """A chip that shares the host's memory: both memory calls are not supported."""
    return board(
        number,
        name="NVIDIA GB10",
        total_mib=0,
        capability="12.1",
        cores=48 * 128,
        watts=140,
        clocks=(2418, 8533),
        bus_width=256,
        pcie="5 16",
    ).but(memory=None, ecc=None, mig=None, pcie=None, power_default=None)


def future(number: int) -> Board:
    """A board that nobody has heard of, of a capability that does not exist."""
    return board(
        number,
        name="NVIDIA X900 512GB",
        total_mib=500_000,
        capability="11.7",
        cores=200 * 128,
        watts=1800,
        clocks=(2500, 5000),
        bus_width=16384,
        pcie="6 16",
    )


NO_CLUSTER = "0" * 32
CLUSTER = "1a2b003c4d5e6f708192a3b4c5d6e7f8"  # with a zero byte inside


def on_switch(
    gpu: Board, *, links: int = 18, up: int | None = None, cluster: str = NO_CLUSTER
) -> Board:
    """With links to NVSwitches, and a fabric that is ready."""
    there = links if up is None else up
    states = ["up"] * there + ["down"] * (links - there)
    lines = tuple(
        f"link {state} switch 00000000:{0xA0 + place % 4:02X}:00.0"
        for place, state in enumerate(states)
    )
    return gpu.but(nvlink_speed="26562", fabric=f"3 7 {cluster} 0 2").having(*lines)


def on_bridge(gpu: Board, to: int, *, links: int = 4) -> Board:
    """With links straight to another GPU."""
    return gpu.but(nvlink_speed="14062").having(*(f"link up gpu {pci(to)}" for _ in range(links)))


def mig_instance(
    number: int, parent: str, profile: str, *, sms: int, slices: int, mib: int
) -> Board:
    return Board(
        {
            "name": f"{parent} MIG {profile}",
            "uuid": uuid(number, "MIG"),
            "memory": f"{mib * MIB} {20 * MIB} {12 * MIB}",
            "attributes": f"{sms} {slices} {slices} {mib}",
        }
    )


def with_instances(gpu: Board, *instances: tuple[int, Board]) -> Board:
    """In MIG mode; what only privileged users may ask is refused."""
    refused = ("status nvmlDeviceGetMemoryInfo 4", "status nvmlDeviceGetMemoryInfo_v2 4")
    return Board(gpu.but(mig="1").values, gpu.more + refused, instances)


def hgx_h100() -> Machine:
    return Machine(tuple(on_switch(h100(number)) for number in range(8)))


def four_4090() -> Machine:
    return Machine(tuple(rtx_4090(number) for number in range(4)))


def bridged_3090() -> Machine:
    return Machine((on_bridge(rtx_3090(0), 1), on_bridge(rtx_3090(1), 0)))


def a100_in_mig() -> Machine:
    """Two instances with a hole between their slots, beside nothing."""
    name = "NVIDIA A100-SXM4-40GB"
    return Machine(
        (
            with_instances(
                a100(0),
                (0, mig_instance(1, name, "3g.20gb", sms=42, slices=3, mib=20096)),
                (2, mig_instance(2, name, "1g.5gb", sms=14, slices=1, mib=4864)),
            ),
        )
    )


def driver_2021() -> Machine:
    """Four V100 with a driver 460: no version 2 of the memory, no core count, no remote type."""
    ends = {0: (1, 2, 3), 1: (0, 2, 3), 2: (0, 1, 3), 3: (0, 1, 2)}
    return Machine(
        tuple(
            v100(number).having(
                *(f"link up gpu {pci(to)}" for to in ends[number] for _ in range(2))
            )
            for number in range(4)
        ),
        driver="460.91.03",
        cuda=11020,
    )
