"""`dupnet anchors`: typical face sizes of a data set, for a spec's head."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from dupnet.cli.parameters import FiniteRange


@click.command()
@click.option(
    "--data", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path), help="Data set in WIDER FACE's layout."
)
@click.option("--count", type=click.IntRange(1, 16), default=5, show_default=True, help="How many anchors.")
@click.option("--size", type=click.IntRange(32, 8192), default=416, show_default=True, help="Long side to which the photos are scaled.")
@click.option("--smallest", type=FiniteRange(min=0), default=8, show_default=True, help="Leave out faces with a longer side below this.")
def command(data: Path, count: int, size: int, smallest: float) -> None:
    """Cluster the face sizes of the train split by k-means; prints TOML for a spec's [head]."""
    import numpy as np
    from tqdm import tqdm

    from dupnet import image
    from dupnet.data import anchors, wider
    from dupnet.errors import DataError

    samples, images = wider.split(data, "train")
    sizes = [np.zeros((0, 2))]
    for sample in tqdm(samples, unit="photo", disable=not sys.stderr.isatty()):
        faces = sample.boxes[~sample.ignore]
        if len(faces):
            long_side = max(image.read(images / sample.photo).shape[:2])
            sizes.append((faces[:, 2:] - faces[:, :2]) * (size / long_side))
    table = np.concatenate(sizes)
    table = table[table.max(1) >= smallest]
    if not len(table):
        raise DataError(f"{data}: the train split holds no face of {smallest:g} pixels or more in photos scaled to {size}")
    found, overlap = anchors.cluster(table, count)
    click.echo(f"# {len(table)} faces of {data} at {size} pixels; mean IoU with the best anchor {overlap:.3f}")
    click.echo("anchors = [" + ", ".join(f"[{w:.1f}, {h:.1f}]" for w, h in found) + "]")
