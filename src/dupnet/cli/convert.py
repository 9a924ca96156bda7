"""`dupnet convert`: a checkpoint to a packed file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from dupnet.cli.parameters import FRACTION


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The packed file, FACE.dnet.")
@click.option("--score", type=FRACTION, help="Default score threshold to store.  [default: the spec's]")
@click.option("--size", type=click.IntRange(1, 8192), help="Default long side of the network's input to store.  [default: the spec's]")
@click.option(
    "--smallest",
    is_flag=True,
    help="Code all 1-bit weights that this shortens: of the shipped models 1 to 2% fewer bytes, for nine times the work, and up to 47 KB "
    "of memory, to open them.",
)
def command(checkpoint: Path, output: Path, score: float | None, size: int | None, smallest: bool) -> None:
    """Convert CHECKPOINT to integers, without loss, and pack it."""
    from dupnet import packed, zoo
    from dupnet.conversion import convert

    if output.resolve() == checkpoint.resolve():
        raise click.UsageError(f"-o would overwrite the checkpoint {checkpoint}")
    if zoo.is_checkpoint(output):
        raise click.UsageError(f"-o {output}: names in .pt and .pth are checkpoints; call a packed file FACE.dnet")
    model = convert(checkpoint)
    score, size = (model.default_score if score is None else score), size or model.default_size_px
    packed.save(replace(model, default_score=score, default_size_px=size), output, smallest=smallest)
    click.echo(f"{output}: {output.stat().st_size} bytes, {len(model.stages)} stages")
