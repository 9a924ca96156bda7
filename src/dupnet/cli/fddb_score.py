"""`dupnet fddb-score`: FDDB's curves of any detector, from its detection files."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dupnet.cli.parameters import FiniteRange

if TYPE_CHECKING:
    from dupnet.evaluation.fddb import FddbScores

EXISTING = click.Path(exists=True, path_type=Path)


@click.command()
@click.argument("detections", type=EXISTING)
@click.option("--annotations", required=True, type=EXISTING, help="FDDB's ellipse lists, with image_sizes.csv or the photos.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder to write DiscROC.txt and ContROC.txt into.")
@click.option("--false-positives", type=FiniteRange(0), multiple=True, help="Where else to read the rates; may be repeated.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(detections: Path, annotations: Path, out: Path | None, false_positives: tuple[float, ...], as_json: bool) -> None:
    """Score DETECTIONS by the rules of FDDB, exactly as its official program does (docs/evaluation.md).

    DETECTIONS is one file in FDDB's format, or a folder with a file for each fold (fold-01-out.txt or FDDB-det-fold-01.txt):
    the photo's name, the number of detections, and a line "x y w h score" for each, or "ra rb angle x y score" for ellipses.
    The photos are not needed: their sizes are enough.

    Prints the discrete and continuous true positive rates at 284 false positives and at 1 in 10 photos.
    """
    from dupnet.data import fddb as data
    from dupnet.evaluation import fddb, predictions

    start = time.perf_counter()
    photos = data.read(annotations)
    sizes = data.sizes(annotations, photos)
    scores = fddb.score(photos, sizes, predictions.read_fddb(detections, photos))
    if out:
        fddb.write_curves(scores, out)
    seconds = round(time.perf_counter() - start, 1)
    if as_json:
        click.echo(json.dumps({"detections": str(detections), **numbers(scores, false_positives), "seconds": seconds}))
    else:
        click.echo(f"{detections}, {seconds} s")
        print_scores(scores, false_positives)


def numbers(scores: FddbScores, false_positives: tuple[float, ...] = ()) -> dict[str, Any]:
    """What JSON holds of a run on FDDB."""
    limits = _limits(scores, false_positives)
    return {
        "photos": scores.photos,
        "faces": scores.faces,
        "rates": [
            {"false_positives": limit, "discrete": scores.discrete_rate(limit), "continuous": scores.continuous_rate(limit)}
            for limit in limits
        ],
        "all_false_positives": int(scores.false_positives.max(initial=0)),
    }


def print_scores(scores: FddbScores, false_positives: tuple[float, ...] = ()) -> None:
    """The same for people."""
    total = int(scores.false_positives.max(initial=0))
    click.echo(f"FDDB: {scores.photos:,} photos in ten folds, {scores.faces:,} faces, {total:,} false positives at the lowest score\n")
    click.echo("false positives  discrete  continuous")
    for limit in _limits(scores, false_positives):
        note = "   1 in 10 photos" if limit == scores.photos / 10 else ""
        click.echo(f"{limit:15g}  {scores.discrete_rate(limit):8.6f}  {scores.continuous_rate(limit):10.6f}{note}")


def _limits(scores: FddbScores, more: tuple[float, ...]) -> list[float]:
    from dupnet.evaluation.fddb import FALSE_POSITIVES

    return [FALSE_POSITIVES, scores.photos / 10, *more]
