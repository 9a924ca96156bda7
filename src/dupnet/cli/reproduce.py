"""`dupnet reproduce`: run the experiments behind the paper's tables and figures."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from dupnet.cli.parameters import run_options


@click.command()
@click.argument("tables", nargs=-1, required=True, metavar="TABLE...")
@click.option("--scale", default="small", show_default=True, type=click.Choice(["tiny", "small", "paper"]), help="How large the runs are.")
@click.option(
    "--wider",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Photos to train and measure on, in WIDER's layout.",
)
@click.option(
    "--fddb", type=click.Path(exists=True, file_okay=False, path_type=Path), help="FDDB: measure the paper's detection rate on it."
)
@click.option(
    "--out", default="runs/reproduce", show_default=True, type=click.Path(file_okay=False, path_type=Path), help="Folder of the runs."
)
@click.option("--seeds", type=click.IntRange(1, 20), default=1, show_default=True, help="Runs of each row, with the seeds 1 to this.")
@run_options
@click.option("--report", type=click.Path(dir_okay=False, path_type=Path), help="Where the report goes.  [default: OUT/SCALE.md]")
@click.option("--report-only", is_flag=True, help="Run nothing; write the report of what is finished.")
def command(
    tables: tuple[str, ...],
    scale: str,
    wider: Path,
    fddb: Path | None,
    out: Path,
    seeds: int,
    cache: Path | None,
    device: str,
    threads: int | None,
    workers: int,
    compile: bool,
    report: Path | None,
    report_only: bool,
) -> None:
    """Train every row of TABLE (table1 to table6, figure3, figure4, a single row such as table6/dupnet, or all), measure it, and write
    the paper's numbers and ours side by side. eresfd-backbone is the experiment behind EResFD: plain against depthwise-separable
    convolutions.

    Kill it at any moment and start it again: finished runs stay, the interrupted one goes on from its last checkpoint, and rows of
    several tables that are the same run are trained once. The scale `paper` is the paper's schedule, for those who have WIDER FACE,
    FDDB and a GPU; `small` takes minutes a run; `tiny` only shows that it works.
    """
    import torch

    from dupnet.cli import say
    from dupnet.experiments import report as reports
    from dupnet.experiments import reproduction
    from dupnet.training import loop

    if threads:
        torch.set_num_threads(threads)
    run = loop.Run(wider, out, cache, device, workers, compile)
    study = reproduction.Study(tables, reproduction.scale_of(scale), run, fddb)
    path = report or out / f"{scale}.md"
    reproduction.check(study)
    reports.around(path)

    def write() -> None:
        reports.write(path, reports.text(study))

    if not report_only:
        jobs = reproduction.plan(study, range(1, seeds + 1))
        reproduction.execute(study, jobs, say=lambda line: say(line, err=True), progress=sys.stderr.isatty(), report=write)
    write()
    click.echo(f"{path}")
