"""`dupnet wider-score`: WIDER FACE's average precision of any detector, from its prediction files."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path

import click

from dupnet.files import without_nan


@click.command()
@click.argument("tree", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--wider", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path), help="WIDER's annotations.")
@click.option("--split", default="val", show_default=True, help="Which part of it.")
@click.option("--subset", is_flag=True, help="Count only the photos that TREE holds, and their faces.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(tree: Path, wider: Path, split: str, subset: bool, as_json: bool) -> None:
    """Score the prediction files in TREE, EVENT/PHOTO.txt, by the rules of WIDER FACE (docs/evaluation.md).

    A file holds the photo's name, the number of boxes, and a line "x y w h score" for each box. The photos are not needed.
    """
    from dupnet.errors import DataError
    from dupnet.evaluation import predictions
    from dupnet.evaluation import wider as protocol

    start = time.perf_counter()
    samples, difficulty = protocol.ground_truth(wider, split)
    listed = len(samples)
    if subset:
        first, there = samples[0].photo, set(predictions.covered(tree, [sample.photo for sample in samples]))
        samples = [sample for sample in samples if sample.photo in there]
        if not samples:
            raise DataError(f"{tree}: holds none of the {listed} photos, such as {predictions.tree_file(tree, first)}")
    scores = protocol.score(samples, difficulty, predictions.read_wider(tree, [sample.photo for sample in samples]))
    seconds = round(time.perf_counter() - start, 1)
    if as_json:
        click.echo(json.dumps({"detections": str(tree), "listed": listed, **without_nan(asdict(scores)), "seconds": seconds}))
        return
    click.echo(f"{tree}: {len(samples):,} of the {listed:,} photos of {wider} ({split}), {seconds} s\n")
    click.echo("AP easy  AP medium  AP hard  AP all  DR at 0.1 false positives a photo")
    click.echo(f"{scores.ap_easy:7.3f}  {scores.ap_medium:9.3f}  {scores.ap_hard:7.3f}  {scores.ap_all:6.3f}  {scores.dr:.3f}")
