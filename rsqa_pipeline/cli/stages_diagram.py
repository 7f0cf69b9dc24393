"""`rsqa stages --svg`: the table of assets as a picture, one band per stage, one box per asset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from rsqa_pipeline.stages import STAGES
from rsqa_pipeline.stages.asset import Asset

WIDTH, MARGIN, BAND, BOX, GAP = 1060, 20, 104, 28, 30
"""Pixels: width of the picture, its margin, height of a band, of a box, and between bands."""
CHARACTER, PADDING = 7.3, 20
"""Pixels: width of a monospace character of 12 px, and of a box besides its text."""
STYLE = (
    "text{font-family:ui-monospace,Menlo,Consolas,monospace;font-size:12px;fill:#1f2933}"
    ".stage{font-weight:bold;font-size:13px}.purpose{font-family:system-ui,sans-serif;fill:#52606d}"
    ".stage,.purpose{stroke:#f5f7fa;stroke-width:4;paint-order:stroke}"
    ".band{fill:#f5f7fa;stroke:#cbd2d9}.box{fill:#fff;stroke:#52606d}.gpu{fill:#e3f0fb}"
    ".edge{fill:none;stroke:#7b8794;stroke-width:1.2;marker-end:url(#arrow)}"
)


@dataclass(frozen=True)
class _Box:
    """Where a box lies, in pixels, and which one it is in its band."""

    x: float
    y: float
    width: float
    band: int
    column: int


def stages_svg(assets: Mapping[str, Asset]) -> str:
    """The picture as SVG text.

    The assets of one kind that every subset has are one box. An arrow runs from an asset to one that reads it; arrows
    that follow from others, and those to the report, which reads every asset, are left out.

    Args:
        assets: of a profile by name, inputs first, as `stages.assets_of` returns them.
    """
    groups: dict[str, list[Asset]] = {}
    for asset in assets.values():
        groups.setdefault(_group(asset), []).append(asset)
    boxes = _place(groups)
    edges = [f'<path class="edge" d="{_path(boxes[a], boxes[b])}"/>' for a, b in _edges(assets)]
    height = MARGIN + len(_bands(groups)) * (BAND + GAP) - GAP + MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        "<title>The stages of rsqa-pipeline, their assets, and what each asset reads</title>",
        f"<style>{STYLE}</style>",
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#7b8794"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        *_band_lines(groups),
        *edges,
        *_stage_lines(groups),
        *(line for name, members in groups.items() for line in _box_lines(name, members, boxes[name])),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _group(asset: Asset) -> str:
    """Name of the asset's box."""
    subset = str(asset.options.get("subset"))
    return asset.name.removesuffix(subset) + "*" if asset.name.endswith(f"_{subset}") else asset.name


def _bands(groups: Mapping[str, Sequence[Asset]]) -> list[str]:
    """The stages that have assets, in order."""
    used = {members[0].stage for members in groups.values()}
    return [stage for stage in STAGES if stage in used]


def _place(groups: Mapping[str, Sequence[Asset]]) -> dict[str, _Box]:
    boxes = {}
    for band, stage in enumerate(_bands(groups)):
        labels = {name: _label(name, m) for name, m in groups.items() if m[0].stage == stage}
        widths = {name: len(label) * CHARACTER + PADDING for name, label in labels.items()}
        space = (WIDTH - 2 * MARGIN - sum(widths.values())) / (len(widths) + 1)
        x = MARGIN + space
        for column, (name, width) in enumerate(widths.items()):
            boxes[name] = _Box(x, MARGIN + band * (BAND + GAP) + BAND - BOX - 16, width, band, column)
            x += width + space
    return boxes


def _edges(assets: Mapping[str, Asset]) -> list[tuple[str, str]]:
    """Pairs of boxes, the second of which reads the first, without the pairs that follow from others."""
    above: dict[str, set[str]] = {}
    found: dict[tuple[str, str], None] = {}
    for name, asset in assets.items():
        implied = set().union(*(above[up] for up in asset.inputs))
        above[name] = implied | set(asset.inputs)
        if asset.stage != "report":
            found |= {(_group(assets[up]), _group(asset)): None for up in asset.inputs if up not in implied}
    return list(found)


def _label(name: str, members: Sequence[Asset]) -> str:
    return f"{name} ({len(members)})" if len(members) > 1 else name


def _path(start: _Box, end: _Box) -> str:
    """From box to box: down to a later band; beside or over the boxes between within one."""
    x, to = start.x + start.width / 2, end.x + end.width / 2
    if start.band < end.band:
        bottom, bend = start.y + BOX, (end.y - start.y - BOX) / 2
        return f"M{x:.0f} {bottom:.0f}C{x:.0f} {bottom + bend:.0f} {to:.0f} {end.y - bend:.0f} {to:.0f} {end.y:.0f}"
    if end.column == start.column + 1:
        return f"M{start.x + start.width:.0f} {start.y + BOX / 2:.0f}H{end.x:.0f}"
    return f"M{x:.0f} {start.y:.0f}C{x:.0f} {start.y - 22:.0f} {to:.0f} {end.y - 22:.0f} {to:.0f} {end.y:.0f}"


def _band_lines(groups: Mapping[str, Sequence[Asset]]) -> list[str]:
    size = f'width="{WIDTH - 2 * MARGIN}" height="{BAND}"'
    return [
        f'<rect class="band" x="{MARGIN}" y="{MARGIN + band * (BAND + GAP)}" {size} rx="6"/>'
        for band in range(len(_bands(groups)))
    ]


def _stage_lines(groups: Mapping[str, Sequence[Asset]]) -> list[str]:
    """Name and purpose of each stage, over the arrows."""
    lines = []
    for band, stage in enumerate(_bands(groups)):
        y = MARGIN + band * (BAND + GAP) + 22
        lines.append(
            f'<text class="stage" x="{MARGIN + 12}" y="{y}">{escape(stage)}</text>'
            f'<text class="purpose" x="{MARGIN + 160}" y="{y}">{escape(STAGES[stage].purpose)}</text>'
        )
    return lines


def _box_lines(name: str, members: Sequence[Asset], box: _Box) -> list[str]:
    kind = "box gpu" if members[0].gpu else "box"
    return [
        f"<g><title>{escape(members[0].description)}</title>"
        f'<rect class="{kind}" x="{box.x:.0f}" y="{box.y:.0f}" width="{box.width:.0f}" height="{BOX}" rx="4"/>'
        f'<text x="{box.x + box.width / 2:.0f}" y="{box.y + 18:.0f}" text-anchor="middle">'
        f"{escape(_label(name, members))}</text></g>"
    ]
