"""The lineage graph: stages as boxes in the order they ran, and which of them every stage was made from.

Boxes stand in one column; each source has one lane beside it, and leaves the lane with an arrow at every stage that
used it, so the picture stays readable for any acyclic graph. What comes from outside the run (a folder, a hub model)
is a dashed box above.
"""

from __future__ import annotations

from dataclasses import dataclass

from luopan.report.data import StageReport
from luopan.report.markup import Markup, join, tag
from luopan.report.numbers import duration
from luopan.report.svg import drawing, fit, rect, text, text_width

BOX_X, BOX_WIDTH, LINE, PAD, GAP = 8.0, 330.0, 19.0, 8.0, 18.0
LANE = 15.0
COLOURS = 6


@dataclass(frozen=True)
class Box:
    name: str
    detail: str
    foot: str
    inputs: tuple[tuple[str, str], ...]  # (role, source)
    top: float
    height: float
    outside: bool


def lineage_graph(stages: list[StageReport]) -> Markup:
    """The graph as SVG. An input that names no stage of the run is drawn as coming from outside."""
    boxes = _boxes(stages)
    if not boxes:
        return Markup("")
    order = {box.name: i for i, box in enumerate(boxes)}
    lanes = _lanes(boxes, order)
    roles = max((text_width(role, 11) for box in boxes for role, _ in box.inputs), default=0.0)
    first_lane = BOX_X + BOX_WIDTH + roles + 34
    width = first_lane + LANE * (max(lanes.values(), default=0) + 1) + 8
    height = boxes[-1].top + boxes[-1].height + 8
    parts = [_edges(box, boxes, order, lanes, first_lane) for box in boxes]
    parts += [_box(box) for box in boxes]
    words = "; ".join(
        f"{box.name} from " + ", ".join(f"{source} ({role})" for role, source in box.inputs)
        for box in boxes
        if box.inputs
    )
    return drawing(width, height, f"Lineage: {words or ', '.join(order)}.", *parts, class_="plot lineage")


def _boxes(stages: list[StageReport]) -> list[Box]:
    names = {stage.name for stage in stages}
    outside = list(dict.fromkeys(s for stage in stages for s in stage.inputs.values() if s not in names))
    boxes: list[Box] = []
    top = 8.0
    for source in outside:
        boxes.append(Box(source, "from outside this run", "", (), top, 2 * PAD + 2 * LINE, True))
        top += boxes[-1].height + GAP
    for stage in stages:
        rows = max(2, len(stage.inputs))
        foot = " · ".join(
            part for part in (stage.identity[:16], duration(stage.seconds) if stage.seconds is not None else "") if part
        )
        detail = stage.kind if stage.kind != stage.name else ""
        if stage.status != "done":
            detail = f"{detail} ({stage.status})" if detail else stage.status
        boxes.append(Box(stage.name, detail, foot, tuple(stage.inputs.items()), top, 2 * PAD + rows * LINE, False))
        top += boxes[-1].height + GAP
    return boxes


def _lanes(boxes: list[Box], order: dict[str, int]) -> dict[str, int]:
    """A lane per source, from its box to its last user; a lane is used again once it is free (shortest first)."""
    spans = {}
    for i, box in enumerate(boxes):
        for _, source in box.inputs:
            if order.get(source, i) < i:
                spans[source] = (order[source], i)
    lanes: dict[str, int] = {}
    for source, (start, end) in sorted(spans.items(), key=lambda item: (item[1][1] - item[1][0], item[1][0])):
        busy = {lanes[other] for other, (s, e) in spans.items() if other in lanes and not (e <= start or s >= end)}
        lanes[source] = next(lane for lane in range(len(spans) + 1) if lane not in busy)
    return lanes


def _edges(box: Box, boxes: list[Box], order: dict[str, int], lanes: dict[str, int], first_lane: float) -> Markup:
    right = BOX_X + BOX_WIDTH
    here = order[box.name]
    parts = []
    for row, (role, source) in enumerate(box.inputs):
        y = box.top + PAD + LINE * row + 11
        role_text = text(right + 16, y - 4, role, "role")
        if source not in lanes or order[source] >= here:
            parts.append(join([role_text, text(right + 16, y + 9, f"({source})", "role")]))
            continue
        lane = first_lane + LANE * lanes[source]
        start = boxes[order[source]]
        leave = start.top + start.height - 11
        bend = 6.0
        route = (
            f"M{right:.1f} {leave:.1f}H{lane - bend:.1f}Q{lane:.1f} {leave:.1f} {lane:.1f} {leave + bend:.1f}"
            f"V{y - bend:.1f}Q{lane:.1f} {y:.1f} {lane - bend:.1f} {y:.1f}H{right + 9:.1f}"
        )
        head = f"M{right + 2:.1f} {y:.1f}l9 -4.5v9z"
        title = tag("title", f"{box.name} uses {source} as {role}")
        edge = [tag("path", title, d=route, class_="edge"), tag("path", d=head, class_="head"), role_text]
        parts.append(tag("g", *edge, class_=f"s{order[source] % COLOURS + 1}"))
    return join(parts)


def _box(box: Box) -> Markup:
    x = BOX_X + 12
    middle = box.top + box.height / 2
    name = fit(box.name, BOX_WIDTH - 24, 14)
    parts = [rect(BOX_X, box.top, BOX_WIDTH, box.height, "node outside" if box.outside else "node", rx=7)]
    parts.append(tag("text", name, tag("title", box.name), x=x, y=middle - 3, class_="node-name"))
    if box.detail and not box.outside:
        parts.append(text(x + text_width(name, 14.5) + 10, middle - 3, box.detail, "tick"))
    foot = box.detail if box.outside else box.foot
    parts.append(text(x, middle + 14, foot, "tick" if box.outside else "hash"))
    return join(parts)
