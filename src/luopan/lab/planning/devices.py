"""Accelerators by name: what their data sheets say. `luopan bench` measures what they give.

Peaks are dense bf16 with fp32 accumulation: data sheets like to print the sparse figure, twice as high. Prices are an
assumption of the order of what clouds asked for by the hour in 2025; they differ by a factor of three between sellers,
so a plan that is to be signed gives its own (`--price`). Limits: links are those of the usual eight-device servers.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from luopan.errors import RecipeError


@dataclass(frozen=True)
class Device:
    """`flops` per second in bf16, bytes per second of memory, of the link within a server and of the network (each
    one way, per device); `per_node` devices share a server. `price` in US dollars an hour; None: not sold by the hour.
    """

    name: str
    flops: float
    memory_bytes: int
    bandwidth: float
    link: float
    network: float
    per_node: int
    price: float | None
    source: str


def _device(name: str, tera: float, gigabytes: float, memory: float, link: float, price: float | None, source: str,
            *, network: float = 50.0, per_node: int = 8) -> Device:  # fmt: skip
    return Device(
        name, tera * 1e12, int(gigabytes * 1e9), memory * 1e9, link * 1e9, network * 1e9, per_node, price, source
    )


# name, dense bf16 TFLOP/s, GB, memory GB/s, link GB/s, $/h; network: 400 Gb/s a device where nothing else is said.
_ALL = (
    _device("h100", 989.4, 80, 3350, 450, 2.5, "NVIDIA H100 data sheet, SXM (1,979 with sparsity)"),
    _device("h100-pcie", 756.5, 80, 2000, 64, 2.2, "NVIDIA H100 data sheet, PCIe", network=25),
    _device("h200", 989.4, 141, 4800, 450, 3.0, "NVIDIA H200 data sheet, SXM"),
    _device("b200", 2250, 180, 8000, 900, 4.5, "NVIDIA DGX B200 data sheet (a system's figure over eight)"),
    _device("a100", 312, 80, 2039, 300, 1.5, "NVIDIA A100 data sheet, SXM 80 GB", network=25),
    _device("a100-40gb", 312, 40, 1555, 300, 1.2, "NVIDIA A100 data sheet, SXM 40 GB", network=25),
    _device("l40s", 362, 48, 864, 32, 1.0, "NVIDIA L40S data sheet (733 with sparsity)", network=12.5),
    _device("a10", 125, 24, 600, 32, 0.6, "NVIDIA A10 data sheet", network=12.5, per_node=4),
    _device("rtx4090", 165.2, 24, 1008, 32, 0.4, "NVIDIA Ada whitepaper, fp32 accumulation", network=1.25, per_node=4),
    _device("rtx3090", 71, 24, 936, 32, 0.25, "NVIDIA Ampere GA102 whitepaper, fp32 accumulation", network=1.25,
            per_node=4),
    _device("mi300x", 1307.4, 192, 5300, 448, 2.5, "AMD Instinct MI300X data sheet"),
)  # fmt: skip
DEVICES: Mapping[str, Device] = MappingProxyType({device.name: device for device in _ALL})


def find_device(name: str) -> Device:
    """The device of that name; RecipeError with a suggestion where there is none."""
    wanted = name.lower().replace("_", "-")
    if wanted in DEVICES:
        return DEVICES[wanted]
    near = difflib.get_close_matches(wanted, DEVICES, n=1)
    hint = f'did you mean "{near[0]}"?' if near else f"devices: {', '.join(DEVICES)}, this"
    raise RecipeError(f'there is no device "{name}"', hint=hint)
