"""A measurement as a page to look at: one HTML file without scripts or requests (`pip install 'dupnet[report]'`).

What happened was decided by a protocol (`dupnet.evaluation.outcome`); here it is sorted, cut out of the photos and laid
out. `report.html` beside this file is the page. Photos are read again, one at a time, only where a thumbnail shows them.
"""

from __future__ import annotations

import base64
import io
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

from dupnet import image
from dupnet.cost import Cost
from dupnet.detections import iou
from dupnet.errors import DataError
from dupnet.evaluation import plots
from dupnet.evaluation.matching import FALSE_POSITIVES_PER_PHOTO, IOU, Floats
from dupnet.evaluation.outcome import NEVER, Outcome, PhotoOutcome
from dupnet.files import whole

THUMBNAILS = 12
"""Of each kind, for each detector."""
THUMBNAIL_PX = 256
CONTEXT = 3.0
"""Side of a thumbnail's part of the photo, as a multiple of the long side of the box that it is about."""
SMALLEST_PART_PX = 64


@dataclass(frozen=True)
class Entry:
    """One column of the report.

    Attributes:
        outcome: what the detector did.
        conditions: how it was measured, by name: size, lowest score, file, and what else differs between detectors.
        cost: of the model, at `cost.size_hw`; None where it is not known.
        file_bytes: of the packed file; None where there is none.
    """

    outcome: Outcome
    conditions: Mapping[str, str] = field(default_factory=dict)
    cost: Cost | None = None
    file_bytes: int | None = None


def write(
    path: str | os.PathLike[str], entries: Sequence[Entry], images: str | Path, *, title: str, about: Mapping[str, str], date: str
) -> None:
    """Write the report. The file appears whole or not at all, and is the same for the same arguments and photos.

    Args:
        path: of the HTML file.
        entries: at least one; all measured on the same faces.
        images: the folder to which the photos' paths are relative.
        title: a plain line.
        about: what was measured on what, by name, in the order of the page.
        date: the one line that differs between two equal measurements.

    Raises:
        DataError: the detectors do not compare, or the file cannot be written.
        ImageError: a photo that a thumbnail shows cannot be read.
    """
    path = Path(path)
    page = render(entries, images, title=title, about=about, date=date)
    try:
        with whole(path) as part:
            part.write_text(page, encoding="utf-8", errors="backslashreplace")  # a file's name may be no valid text
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from None


def render(entries: Sequence[Entry], images: str | Path, *, title: str, about: Mapping[str, str], date: str) -> str:
    """The page as text. Arguments as for `write`."""
    outcomes = [entry.outcome for entry in entries]
    panels = plots.panels(outcomes, _variable)
    names = [outcome.detector for outcome in outcomes]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(Path(__file__).with_name("report.html").read_text(encoding="utf-8"))
    first = outcomes[0]
    return template.render(
        title=title,
        lead=_lead(first),
        names=names,
        keys=[Markup(plots.key_symbol(number, _variable)) for number in range(len(names))],
        groups=_groups(entries),
        numbers_note=_NUMBERS_NOTE,
        curves_note=_CURVES_NOTE.format(leading=first.leading),
        panels=[{"key": key, "title": name, "svg": Markup(svg)} for key, name, svg in panels],
        worst_note=_WORST_NOTE.format(leading=first.leading),
        galleries=[_gallery(outcome, outcomes, Path(images)) for outcome in outcomes],
        costs=[_layers(number, entry) for number, entry in enumerate(entries) if entry.cost],
        cost_note=_COST_NOTE,
        about={**about, "Faces to find": ", ".join(f"{curve.faces:,} {curve.name}" for curve in first.curves if not curve.is_sum)},
        date=date,
    )


_OPERATING = f"{FALSE_POSITIVES_PER_PHOTO:g} false positives per photo"
_NUMBERS_NOTE = (
    "The best of a row is shaded. Scores belong to these photos at these sizes: they compare with each other, not with numbers measured "
    "on other photos."
)
_CURVES_NOTE = (
    f"Marks show the operating point: the score threshold that finds the most {{leading}} faces with at most {_OPERATING}. "
    "The rates by height are measured there too, on every face to find."
)
_WORST_NOTE = (
    "At the operating point, with the {leading} faces counting: the largest faces that were missed, and the surest boxes that found no "
    "face or one that was found already."
)
_COST_NOTE = (
    "Bytes of the file are those before its coding, which makes thresholds and some weights smaller; in all there is a header too. "
    "Multiply-adds are those of the plain convolutions, and after the two shortcuts that duplication allows. Maps: what a layer reads and "
    "writes, in all the largest of them."
)


def _variable(colour: str) -> str:
    """The page's colour, light or dark, for one of a plot's."""
    if colour in plots.SERIES:
        return f"var(--s{plots.SERIES.index(colour)})"
    return {plots.INK: "var(--ink)", plots.MUTED: "var(--muted)", plots.GRID: "var(--grid)", plots.PAPER: "var(--paper)"}.get(
        colour, colour
    )


def _lead(outcome: Outcome) -> str:
    rate, limit = outcome.curve.best(outcome.allowed)
    if limit == np.inf:
        return f"No score threshold of {outcome.detector} keeps false positives as few as {FALSE_POSITIVES_PER_PHOTO:g} per photo."
    faces = f"{outcome.curve.faces:,} {outcome.leading} faces in {len(outcome.photos):,} photos"
    return f"{outcome.detector} finds {rate:.1%} of the {faces} at {_OPERATING} (scores of {limit:.3f} and above)."


def _groups(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """The comparison's rows: accuracy, cost, conditions."""
    outcomes = [entry.outcome for entry in entries]
    keys = dict.fromkeys(key for outcome in outcomes for key in outcome.numbers)
    accuracy = [_numbers(key, [outcome.numbers.get(key, math.nan) for outcome in outcomes], "{:.3f}") for key in keys]
    limits = [outcome.limit if np.isfinite(outcome.limit) else math.nan for outcome in outcomes]
    accuracy.append(_numbers("Score at the operating point", limits, "{:.3f}", better=0))
    totals = [entry.cost.total if entry.cost else None for entry in entries]
    known = next((entry.cost for entry in entries if entry.cost), None)
    groups = [{"title": "Accuracy", "rows": accuracy}]
    if known:
        rows, columns = known.size_hw
        size = f"{columns}×{rows}"
        cost = [
            _numbers("Weights, KB", [total.weight_bytes / 1024 if total else math.nan for total in totals], "{:,.1f}", better=-1),
            _numbers("Packed file, bytes", [entry.file_bytes or math.nan for entry in entries], "{:,.0f}", better=-1),
            _numbers(f"Multiply-adds at {size}, million", [t.macs / 1e6 if t else math.nan for t in totals], "{:,.0f}", better=-1),
            _numbers("… after shortcuts", [t.effective_macs / 1e6 if t else math.nan for t in totals], "{:,.0f}", better=-1),
            _numbers(f"Maps at {size}, KB", [t.map_bytes / 1024 if t else math.nan for t in totals], "{:,.1f}", better=-1),
        ]
        groups.append({"title": "Cost", "rows": cost})
    names = dict.fromkeys(name for entry in entries for name in entry.conditions)
    measured = [
        {"name": name, "cells": [entry.conditions.get(name, "–") for entry in entries], "best": (), "is_text": True} for name in names
    ]
    return [*groups, {"title": "Measured with", "rows": measured}] if measured else groups


def _numbers(name: str, values: Sequence[float], form: str, *, better: int = 1) -> dict[str, Any]:
    """A row of numbers; the best is marked where several are known and differ (`better`: 1 the largest, -1 the smallest, 0 none)."""
    cells = ["–" if math.isnan(value) else form.format(value) for value in values]
    shown = [better * value for value in values if not math.isnan(value)]
    differ = better != 0 and len(shown) > 1 and max(shown) > min(shown)
    best = {number for number, value in enumerate(values) if better * value == max(shown)} if differ else set()
    return {"name": name, "cells": cells, "best": best, "is_text": False}


def _layers(number: int, entry: Entry) -> dict[str, Any]:
    assert entry.cost is not None
    rows = [
        (
            line.name,
            f"{line.weight_bytes / 1024:.3f}",
            "–" if line.file_bytes is None else f"{line.file_bytes:,}",
            f"{line.macs / 1e6:,.1f}",
            f"{line.effective_macs / 1e6:,.1f}",
            f"{line.map_bytes / 1024:,.1f}",
        )
        for line in (*entry.cost.layers, entry.cost.total)
    ]
    columns = ("Layer", "Weights, KB", "File before coding, bytes", "Multiply-adds, million", "After shortcuts", "Maps, KB")
    return {"number": number, "name": entry.outcome.detector, "columns": columns, "rows": rows}


@dataclass(frozen=True)
class Box:
    """A rectangle over a thumbnail: what it is (classes of the page's style sheet) and where, in pixels of the shown part."""

    kind: str
    x: float
    y: float
    w: float
    h: float


@dataclass(frozen=True)
class Thumbnail:
    """A part of a photo, and what is to be seen in it."""

    photo: str
    head: str
    lines: tuple[str, ...]
    alt: str
    uri: str
    width: int
    height: int
    boxes: tuple[Box, ...]


def worst_misses(outcome: Outcome) -> list[tuple[int, int]]:
    """Photo and face, as indices, of the counting faces that the operating point misses, the largest first."""
    found = [
        (-(p.faces[face, 3] - p.faces[face, 1]), number, int(face))
        for number, p in enumerate(outcome.photos)
        for face in np.flatnonzero(p.counts & ~(p.found_at >= outcome.limit))
    ]
    return [(number, face) for _, number, face in sorted(found)]


def worst_false_alarms(outcome: Outcome) -> list[tuple[int, int]]:
    """Photo and box, as indices, of all false alarms, the surest first."""
    found = [
        (-float(p.found.scores[box]), number, int(box)) for number, p in enumerate(outcome.photos) for box in np.flatnonzero(p.false_alarms)
    ]
    return [(number, box) for _, number, box in sorted(found)]


def _gallery(outcome: Outcome, outcomes: Sequence[Outcome], images: Path) -> dict[str, Any]:
    misses, alarms = worst_misses(outcome), worst_false_alarms(outcome)
    passed = sum(int((p.false_alarms & (p.found.scores >= outcome.limit)).sum()) for p in outcome.photos)
    threshold = f" (threshold {outcome.limit:.3f})" if np.isfinite(outcome.limit) else ""
    return {
        "name": outcome.detector,
        "misses": list(_thumbnails(outcome, outcomes, misses[:THUMBNAILS], images, is_face=True)),
        "alarms": list(_thumbnails(outcome, outcomes, alarms[:THUMBNAILS], images, is_face=False)),
        "misses_note": f"{len(misses):,} of {outcome.curve.faces:,} {outcome.leading} faces are missed{threshold}"
        + _shown(len(misses), "the largest"),
        "alarms_note": f"{passed:,} false alarms pass the threshold" + _shown(len(alarms), "the surest"),
    }


def _shown(count: int, which: str) -> str:
    return f"; {which} {min(count, THUMBNAILS)} are shown." if count > 1 else "."


def _thumbnails(
    outcome: Outcome, outcomes: Sequence[Outcome], chosen: Sequence[tuple[int, int]], images: Path, *, is_face: bool
) -> Iterator[Thumbnail]:
    for number, index in chosen:
        p = outcome.photos[number]
        subject = p.faces[index] if is_face else p.found.xyxy[index].astype(np.float64)
        others = [(other.detector, other.limit, other.photos[number]) for other in outcomes if other is not outcome]
        head, lines = _miss_words(p, index, others) if is_face else _alarm_words(p, index, outcome.limit, others)
        uri, (left, top, width, height) = cut(image.read(images / p.photo), subject)
        boxes = []
        for kind, xyxy in _boxes(p, outcome.limit, index, is_face):
            x1, y1, x2, y2 = xyxy
            if x2 > left and y2 > top and x1 < left + width and y1 < top + height:
                boxes.append(Box(kind, round(x1 - left, 1), round(y1 - top, 1), round(x2 - x1, 1), round(y2 - y1, 1)))
        alt = f"{'Missed face' if is_face else 'False alarm'} in {p.photo}: {head}, {', '.join(lines)}"
        yield Thumbnail(p.photo, head, tuple(lines), alt, uri, width, height, tuple(boxes))


def _boxes(p: PhotoOutcome, limit: float, index: int, is_face: bool) -> Iterator[tuple[str, Floats]]:
    """Labels, boxes at the operating point, and last the subject."""
    for number, face in enumerate(p.faces):
        if not (is_face and number == index):
            yield "face" if p.counts[number] else "other", face
    for number, (box, score) in enumerate(zip(p.found.xyxy.astype(np.float64), p.found.scores)):
        if score >= limit and not (not is_face and number == index):
            yield "box", box
    yield ("face subject", p.faces[index]) if is_face else ("box subject", p.found.xyxy[index].astype(np.float64))


Others = Sequence[tuple[str, float, PhotoOutcome]]
"""The other detectors: name, threshold, what they did on the same photo."""


def _miss_words(p: PhotoOutcome, face: int, others: Others) -> tuple[str, list[str]]:
    if p.found_at[face] > NEVER:
        reason = f"found only at score {p.found_at[face]:.3f}"
    else:
        best = float(iou(p.faces[face], p.found.xyxy).max(initial=0))
        reason = "its box went to another face" if best >= IOU else f"best box overlaps {best:.3f}" if best > 0.05 else "no box near it"
    lines = [reason]
    if others:
        finders = [f"{name} ({q.found_at[face]:.2f})" for name, at, q in others if q.found_at[face] >= at]
        lines.append("found by " + ", ".join(finders) if finders else "missed by all")
    return f"face {_pixels(p.faces[face])} tall", lines


def _alarm_words(p: PhotoOutcome, box: int, limit: float, others: Others) -> tuple[str, list[str]]:
    overlaps = iou(p.found.xyxy[box], p.faces)[0] if len(p.faces) else np.zeros(0, np.float32)
    best = float(overlaps.max(initial=0))
    if best >= IOU:
        reason = "second box on a found face"
    elif best > 0.05:
        reason = f"overlaps a label {best:.3f}, needs {IOU:g}"
    else:
        reason = "nothing labelled there"
    lines = [f"{_pixels(p.found.xyxy[box])} tall", reason]
    if p.found.scores[box] < limit:
        lines.append("below the threshold")
    same = [
        name for name, at, q in others if (iou(p.found.xyxy[box], q.found.xyxy)[0][q.false_alarms & (q.found.scores >= at)] >= IOU).any()
    ]
    if others:
        lines.append("also by " + ", ".join(same) if same else "by no other")
    return f"score {p.found.scores[box]:.3f}", lines


def _pixels(xyxy: Floats | np.ndarray[Any, Any]) -> str:
    return f"{float(xyxy[3] - xyxy[1]):.0f} px"


def cut(photo: image.Pixels, xyxy: Floats) -> tuple[str, tuple[int, int, int, int]]:
    """The surroundings of a box as a data URI, and left, top, width and height of that part in pixels of the photo."""
    height, width = photo.shape[:2]
    side = max(SMALLEST_PART_PX, CONTEXT * float(np.max(xyxy[2:] - xyxy[:2])))
    w, h = min(width, round(side)), min(height, round(side))
    centre = (xyxy[:2] + xyxy[2:]) / 2
    left = int(np.clip(round(float(centre[0]) - w / 2), 0, width - w))
    top = int(np.clip(round(float(centre[1]) - h / 2), 0, height - h))
    part = Image.fromarray(np.ascontiguousarray(photo[top : top + h, left : left + w]))
    part.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    part.save(data, "JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode("ascii"), (left, top, w, h)
