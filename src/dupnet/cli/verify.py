"""`dupnet verify`: torch = numpy reference = C core, on every value of every map."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path

import click
from tqdm import tqdm


@click.command()
@click.argument("model")
@click.option("--checkpoint", required=True, type=click.Path(path_type=Path), help="The network that MODEL was made from.")
@click.option("--photos", required=True, type=click.Path(exists=True, path_type=Path), help="A photo, or a folder (read recursively).")
@click.option("--size", type=click.IntRange(1, 8192), help="Long side of the network's input.  [default: the model's]")
@click.option("--limit", type=click.IntRange(1), help="Compare on so many photos at most.")
def command(model: str, checkpoint: Path, photos: Path, size: int | None, limit: int | None) -> None:
    """Compare every map of every stage of MODEL (a file, or a name that ships) in torch, the reference and the C core.

    The exit code is 1 at a difference.
    """
    from dupnet import image
    from dupnet.nn import checkpoint as checkpoints
    from dupnet.verification import verify

    paths = list(islice(image.find(photos), limit))
    if not paths:
        raise click.UsageError(f"{photos} holds no photo")
    result = verify(model, checkpoints.load(checkpoint), tqdm(paths, unit="photo", disable=None), size=size)
    if result.difference:
        click.echo(f"DIFFERENT: {result.difference}")
        sys.exit(1)
    click.echo(
        f"equal: {result.photos} photos, {result.stages} stages, {result.values:,} values compared "
        "(torch = reference, reference = core), 0 differences"
    )
