"""All measurements in order, as a table, as JSON and as a roofline picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from luopan.artifacts import atomic_write_json, versions
from luopan.errors import LuopanError
from luopan.lab.benchmark.measures import Measurement
from luopan.lab.planning.devices import DEVICES, Device

GROUPS = ("matmul", "memory", "disk", "data", "collectives")


def run_bench(
    folder: Path, *, groups: Sequence[str] = GROUPS, seconds: float = 2.0, ranks: int = 2,
    said: Callable[[Measurement], None] = lambda one: None,
) -> tuple[list[Measurement], dict[str, Any]]:  # fmt: skip
    """The measurements and what they were made on. `folder`: where runs live. LuopanError for an unknown group."""
    if unknown := [name for name in groups if name not in GROUPS]:
        raise LuopanError(f"there is no measurement {unknown[0]!r}", hint=f"there are {', '.join(GROUPS)}")
    if not seconds > 0 or ranks < 1:
        raise LuopanError("seconds must be above 0 and ranks at least 1")
    found = []
    for one in _all(folder, groups, seconds, ranks):
        said(one)
        found.append(one)
    return found, machine()


def _all(folder: Path, groups: Sequence[str], seconds: float, ranks: int) -> Iterator[Measurement]:
    from luopan.lab.benchmark import measures
    from luopan.lab.benchmark.collectives import collectives
    from luopan.train.device import pick_device

    device, known = pick_device(), datasheet()
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    if "matmul" in groups:
        yield from measures.matmuls(device, seconds, known.flops if known else None)
    if "memory" in groups:
        yield from measures.memory(device, seconds, known.bandwidth if known else None)
    if "disk" in groups:
        yield from measures.disk(place, seconds)
        yield from measures.checkpoint(place, seconds)
    if "data" in groups:
        yield from measures.loader(place, seconds)
    if "collectives" in groups and ranks > 1:
        yield from collectives(ranks, seconds, known.link if known else None)


def datasheet() -> Device | None:
    """The data sheet of the accelerator at hand; None for a CPU or a card that is not in the table."""
    import torch

    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name().lower().replace(" ", "")
    for key, device in sorted(DEVICES.items(), key=lambda item: -len(item[0])):
        if key.replace("-", "") in name or key.split("-")[0] in name:
            return device
    return None


def machine() -> dict[str, Any]:
    """What the figures were made on."""
    import platform

    import torch

    from luopan.lab.doctor import usable_cores

    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "platform": platform.platform(terse=True),
        "versions": versions(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        import platform

        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def write_bench(out: Path, found: Sequence[Measurement], about: dict[str, Any]) -> list[Path]:
    """`bench.json`, and `roofline.png` where products and memory were measured."""
    out.mkdir(parents=True, exist_ok=True)
    rows = [{**asdict(one), "share": one.share} for one in found]
    atomic_write_json(out / "bench.json", {"machine": about, "measurements": rows})
    written = [out / "bench.json"]
    if {"matmul", "memory"} <= {one.group for one in found}:
        draw_roofline(found, about, out / "roofline.png")
        written.append(out / "roofline.png")
    return written


def draw_roofline(found: Sequence[Measurement], about: dict[str, Any], file: Path) -> None:
    """FLOP/s over FLOPs a byte: the roof that memory and products make, and the products under it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    bandwidth = max(one.value for one in found if one.group == "memory")
    products = [one for one in found if one.group == "matmul" and one.intensity]
    for colour, kind in zip(
        ("#0b6e8a", "#c4451c"), dict.fromkeys(one.name.split()[0] for one in products), strict=False
    ):
        own = [one for one in products if one.name.startswith(kind)]
        best = max(one.value for one in own)
        ridge = best / bandwidth
        axis.plot([0.1, ridge, 1e5], [0.1 * bandwidth, best, best], color=colour, linewidth=1.2,
                  label=f"{kind}: {best / 1e9:,.0f} GFLOP/s, ridge at {ridge:,.0f} FLOPs a byte")  # fmt: skip
        axis.plot([one.intensity or 0 for one in own], [one.value for one in own], "o", color=colour, markersize=4)
        for one in own:
            axis.annotate(one.name.split()[1], (one.intensity or 0, one.value), fontsize=6,
                          textcoords="offset points", xytext=(3, -8))  # fmt: skip
        if own[0].datasheet:
            axis.axhline(own[0].datasheet, color=colour, linestyle=":", linewidth=1, label="data sheet")
    axis.set_xscale("log")
    axis.set_yscale("log")
    # Decoding one request reads every weight for two operations; a training step of 2,048 tokens is far to the right.
    axis.axvline(0.5, color="#999999", linewidth=0.8, linestyle="--")
    axis.annotate(
        "decoding, one request, fp32", (0.5, 1.2 * axis.get_ylim()[0]), fontsize=7, rotation=90, va="bottom", ha="right"
    )
    axis.set_xlabel("FLOPs for each byte moved")
    axis.set_ylabel("FLOP/s")
    axis.set_title(f"{about['accelerator'] or about['processor']}: memory {bandwidth / 1e9:,.1f} GB/s", fontsize=10)
    axis.legend(fontsize=7, loc="lower right")
    figure.savefig(file, dpi=130, metadata={"Software": None})


def line(one: Measurement) -> str:
    """A measurement for people."""
    scale, unit = (1e9, f"G{one.unit}/s") if one.value >= 1e9 else (1e6, f"M{one.unit}/s")
    if one.value < 1e6:
        scale, unit = 1e3, f"k{one.unit}/s"
    if one.value >= 1e12:
        scale, unit = 1e12, f"T{one.unit}/s"
    sheet = "" if one.share is None else f"  {one.share:4.0%} of the data sheet's"
    return (
        f"{one.group:<12} {one.name:<22} {one.value / scale:8.1f} {unit:<9}{sheet}{'  ' + one.note if one.note else ''}"
    )
