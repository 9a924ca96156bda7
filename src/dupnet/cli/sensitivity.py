"""`dupnet sensitivity`: what the quantization of each layer costs."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import click

from dupnet.cli.parameters import run_options


@click.command()
@click.argument("model", metavar="MODEL_OR_SPEC")
@click.option(
    "--data", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path), help="Data set in WIDER FACE's layout."
)
@click.option("--out", default="runs/sensitivity", show_default=True, type=click.Path(file_okay=False, path_type=Path), help="Folder.")
@click.option("--steps", type=click.IntRange(1), default=300, show_default=True, help="Training steps of each point.")
@click.option("--start-steps", type=click.IntRange(1), default=3000, show_default=True, help="Training steps of the float network before.")
@click.option("--progressive", is_flag=True, help="Also quantize group after group, in the order of the paper's Table 3.")
@click.option("--alone/--no-alone", default=True, show_default=True, help="Quantize each layer alone.")
@click.option("--recipe", default="small", show_default=True, help="Where everything but model and steps comes from.")
@click.option("--on", default="held-out", show_default=True, type=click.Choice(["held-out", "val"]), help="Photos that are measured on.")
@click.option("--size", type=click.IntRange(32, 8192), default=256, show_default=True, help="Long side of those photos.")
@click.option("--photos", type=click.IntRange(1), default=300, show_default=True, help="At most so many held-out photos.")
@run_options
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw the costs: .png or .svg (needs matplotlib).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: sensitivity.json.")
def command(
    model: str,
    data: Path,
    out: Path,
    steps: int,
    start_steps: int,
    progressive: bool,
    alone: bool,
    recipe: str,
    on: str,
    size: int,
    photos: int,
    cache: Path | None,
    device: str,
    threads: int | None,
    workers: int,
    compile: bool,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Quantize the layers of MODEL_OR_SPEC one by one, train each briefly from one float network, and print what it costs.

    A spec (a name of `dupnet zoo` or a TOML file) gets its float network trained first; a checkpoint (.pt) of a float network is
    started from. The numbers are measured on training photos that are held out; val may be chosen instead, to choose between models, but
    is not to be tuned on. Finished points are files in the folder: killed and started again, only the rest is done.
    sensitivity.json is what `dupnet search --sensitivity` reads; sensitivity.csv holds the same table.
    """
    if not alone and not progressive:
        raise click.UsageError("--no-alone leaves nothing to measure; give --progressive, too")
    import torch

    from dupnet.cli import say
    from dupnet.experiments import sensitivity
    from dupnet.experiments.runs import shown
    from dupnet.training import loop
    from dupnet.training import recipe as recipes

    if plot:  # a wrong name or a missing library is told before the hours of training
        from dupnet.evaluation import plots

        plots.check_suffix(plot)
    if threads:
        torch.set_num_threads(threads)
    spec, start = sensitivity.load_model(model)
    settings = sensitivity.Settings(
        spec,
        replace(recipes.load(recipe), steps=steps),
        start_steps,
        start=start,
        progressive=progressive,
        alone=alone,
        on="val" if on == "val" else "held-out",
        size_px=size,
        photos=photos,
    )
    run = loop.Run(data, out, cache, device, workers, compile)
    content = sensitivity.measure(settings, run, say=lambda line: say(line, err=True), progress=sys.stderr.isatty())
    if plot:
        sensitivity.plot(content, plot)
    if as_json:
        click.echo(json.dumps(content))
        return
    click.echo(f"{content['model']}, {steps} steps a point; AP and detection rate on {content['measured_on']}, {size} pixels\n")
    click.echo(f"{'quantized':12}{'KB':>10}{'MFLOPs':>10}{'loss':>9}{'AP':>8}{'DR':>8}{'more loss':>12}{'change of AP':>14}")
    for row in content["points"]:
        click.echo(
            f"{row['name']:12}{row['weights_kb']:10,.1f}{row['paper_mflops']:10,.1f}{row['loss']:9.4f}"
            f"{shown(row['ap']):>8}{shown(row['dr']):>8}{row['loss_change']:+12.4f}{shown(row['ap_change'], '+.3f'):>14}"
        )
    click.echo(f"\n{out / 'sensitivity.json'}")
