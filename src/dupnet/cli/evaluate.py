"""`dupnet evaluate`: what a packed model reaches on WIDER FACE."""

from __future__ import annotations

import json
import math
import sys
import time
from dataclasses import asdict
from pathlib import Path

import click

from dupnet.cli.parameters import FRACTION, iou_option


@click.command()
@click.argument("model")
@click.option("--wider", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path), help="Data set in WIDER's layout.")
@click.option("--split", default="val", show_default=True, help="Which part of it.")
@click.option("--size", type=click.IntRange(32, 8192), help="Long side to which the photos are scaled.  [default: the model's]")
@click.option("--score", type=FRACTION, default=0.02, show_default=True, help="Lowest score kept.")
@iou_option
@click.option("--threads", type=click.IntRange(1, 256), default=1, show_default=True, help="Threads that share the work of a photo.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(model: str, wider: Path, split: str, size: int | None, score: float, iou: float | None, threads: int, as_json: bool) -> None:
    """Score MODEL by the rules of WIDER FACE (docs/evaluation.md): a name that ships with dupnet, a .dnet file, or a .pt checkpoint.

    A checkpoint, also of a network with float layers, is run by torch.

    Prints the average precision on the easy, medium, hard and all faces, and the part of the medium faces found at 0.1
    false positives a photo.
    """
    from dupnet.cli.detectors import open_detector
    from dupnet.detections import DEFAULT_IOU
    from dupnet.evaluation import wider as protocol

    detector = open_detector(model, threads=threads)
    size = size or detector.default_size
    iou = DEFAULT_IOU if iou is None else iou
    start = time.perf_counter()
    scores = protocol.evaluate(
        lambda photo: detector.detect(photo, size=size, score=score, iou=iou), wider, split=split, progress=sys.stderr.isatty()
    )
    seconds = round(time.perf_counter() - start, 1)
    if as_json:
        numbers = {key: None if isinstance(v, float) and math.isnan(v) else v for key, v in asdict(scores).items()}
        click.echo(json.dumps({"model": detector.name, "size": size, "score": score, "iou": iou, **numbers, "seconds": seconds}))
        return
    click.echo(f"{detector.name}, long side {size}, {scores.photos} photos of {wider} ({split}), score {score} and above, {seconds} s\n")
    click.echo("AP easy  AP medium  AP hard  AP all  DR at 0.1 false positives a photo")
    click.echo(f"{scores.ap_easy:7.3f}  {scores.ap_medium:9.3f}  {scores.ap_hard:7.3f}  {scores.ap_all:6.3f}  {scores.dr:.3f}")
