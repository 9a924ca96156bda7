"""`dupnet train`: run a recipe, or go on with it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import click


@click.command()
@click.argument("recipe")
@click.option(
    "--data", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path), help="Data set in WIDER FACE's layout."
)
@click.option("--spec", help="Train this model instead of the recipe's: a name that `dupnet zoo` lists, or a TOML file, also with changes.")
@click.option(
    "--activation", type=click.Choice(["hwgq", "pact"]), help="Quantizer of the activations.  [default: the recipe's, or the row's]"
)
@click.option(
    "--start-from",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Begin with the weights of a checkpoint, or with EResFD's published ones.  [default: the recipe's]",
)
@click.option("--seed", type=click.IntRange(min=0), help="Of all that is drawn by lot.  [default: the recipe's]")
@click.option("--steps", type=click.IntRange(min=1), help="How many; the schedule is that long.  [default: the recipe's]")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder of the run.  [default: runs/RECIPE]")
@click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder that keeps the photos decoded (3 bytes a pixel); loads faster.",
)
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in the run's folder.")
@click.option("--stop-at", type=click.IntRange(min=1), help="Stop after this step; network.pt is the network so far, --resume goes on.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--workers", type=click.IntRange(0, 64), default=1, show_default=True, help="Processes that load and augment.")
@click.option("--compile", is_flag=True, help="Fuse the network with torch.compile.")
@click.option(
    "--precision",
    type=click.Choice(["float32", "mixed"]),
    default="float32",
    show_default=True,
    help="mixed, on a CPU: the forward pass in 8-bit integers (exact), gradients in bfloat16.",
)
@click.option("--measure", is_flag=True, help="Only print images/s of the bare network and of the whole loop.")
def command(
    recipe: str,
    data: Path,
    spec: str | None,
    activation: Literal["hwgq", "pact"] | None,
    start_from: Path | None,
    seed: int | None,
    steps: int | None,
    out: Path | None,
    cache: Path | None,
    resume: bool,
    stop_at: int | None,
    device: str,
    workers: int,
    compile: bool,
    precision: Literal["float32", "mixed"],
    measure: bool,
) -> None:
    """Train by RECIPE: a TOML file, or the name of one that ships.

    With --spec and a row of the paper's tables, such as table6/dupnet+pact, the activations are that row's.

    The run's folder gets checkpoint.pt (to resume), network.pt (the result, for `dupnet convert`), metrics.csv and
    TensorBoard events. For several processes or machines: torchrun --nproc-per-node 2 -m dupnet train ...
    """
    from dupnet.training import loop
    from dupnet.training import recipe as recipes

    checked = recipes.with_model(recipes.load(recipe), spec=spec, activation=activation)
    chosen: dict[str, Any] = {"start_from": str(start_from) if start_from else None, "seed": seed, "steps": steps}
    checked = replace(checked, **{key: value for key, value in chosen.items() if value is not None})
    out = out or Path("runs") / (Path(recipe).stem + (f"-{re.sub('[^A-Za-z0-9.=+-]', '-', spec)}" if spec else ""))
    how: dict[str, Any] = {"cache": cache, "device": device, "workers": workers, "compile": compile, "precision": precision}
    if measure and (resume or stop_at):
        raise click.UsageError("--measure begins anew and ends by itself: it takes neither --resume nor --stop-at")
    if measure:
        rates = loop.measure(checked, loop.Run(data, out, **how))
        click.echo(
            f"bare network {rates['bare']:.1f} images/s, whole loop {rates['loop']:.1f} images/s ({rates['loop'] / rates['bare']:.0%})"
        )
        return
    loop.train(checked, data=data, out=out, resume=resume, stop_at=stop_at, **how)
    click.echo(f"{out / 'network.pt'}")
