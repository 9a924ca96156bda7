"""`dupnet ablate`: each idea for a recipe alone against the same baseline."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from dupnet.cli.parameters import run_options


@click.command()
@click.argument("ideas", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--data", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path), help="Data set in WIDER FACE's layout."
)
@click.option(
    "--out", default="runs/ablate", show_default=True, type=click.Path(file_okay=False, path_type=Path), help="Folder of the runs."
)
@click.option("--seeds", type=click.IntRange(1, 20), default=2, show_default=True, help="Runs of each idea, with the seeds 1 to this.")
@run_options
@click.option("--precision", type=click.Choice(["float32", "mixed"]), default="float32", show_default=True, help="As of `dupnet train`.")
@click.option("--report-only", is_flag=True, help="Run nothing; print the table of what is finished.")
def command(
    ideas: Path,
    data: Path,
    out: Path,
    seeds: int,
    cache: Path | None,
    device: str,
    threads: int | None,
    workers: int,
    compile: bool,
    precision: Literal["float32", "mixed"],
    report_only: bool,
) -> None:
    """Train by a recipe and, idea by idea, by the recipe changed as the TOML file IDEAS says; print a table: scores on val, the gain
    over the baseline with the interval that the spread of the seeds allows, the time, and the verdict.

    Kill it at any moment and start it again, or start several at once: finished runs stay, others go on. The table is also OUT/ablation.md.
    """
    import torch

    from dupnet.cli import say
    from dupnet.evaluation import wider
    from dupnet.experiments import ablation
    from dupnet.files import write_text
    from dupnet.training import loop

    if threads:
        torch.set_num_threads(threads)
    plan = ablation.load(ideas)
    wider.data_set(data)
    run = loop.Run(data, out, cache, device, workers, compile, precision)
    numbers = range(1, seeds + 1)

    def report() -> str:
        text = ablation.text(plan, ablation.results(plan, run, numbers))
        write_text(out / "ablation.md", text)
        return text

    if not report_only:
        ablation.execute(plan, run, numbers, say=lambda line: say(line, err=True), report=report)
    click.echo(report(), nl=False)
