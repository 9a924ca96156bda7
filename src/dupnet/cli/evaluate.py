"""`dupnet evaluate`: what detectors reach on a benchmark, in numbers, as plots and as a page to look at."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dupnet.cli.parameters import FRACTION, chosen_sizes, iou_option, view_options
from dupnet.files import key_of, without_nan

if TYPE_CHECKING:
    from dupnet.cli.benchmarks import Benchmark
    from dupnet.evaluation import Detect
    from dupnet.evaluation.outcome import Outcome
    from dupnet.spec import ModelSpec

COST_SIZE_HW = (480, 640)
"""Where a report states the cost of a model."""


@dataclass(frozen=True)
class Contender:
    """One that is measured: a model, which runs, or the boxes that another detector left in files.

    Attributes:
        name: of its own among those that are compared.
        source: from a photo to boxes, or the folder of the files.
        conditions: how it was run, for the report.
        spec: of the model; None where it is not known, or has no quantizable layers.
        file_bytes: of the packed file; None where there is none.
        settings: how it was run, for JSON.
    """

    name: str
    source: Detect | Path
    conditions: dict[str, str]
    spec: ModelSpec | None
    file_bytes: int | None
    settings: dict[str, Any]


@dataclass(frozen=True)
class Result:
    """What a contender reached: the numbers of JSON, its row in the table, the boxes, and how long it took."""

    contender: Contender
    numbers: dict[str, Any]
    row: str
    found: Any
    seconds: float


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("--model", "more_models", multiple=True, help="One more MODEL, in the way of `dupnet detect`; repeatable.")
@click.option("--wider", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Data set in WIDER's layout.")
@click.option("--split", help="Which part of it.  [default: val]")
@click.option("--fddb", type=click.Path(exists=True, file_okay=False, path_type=Path), help="FDDB, with its photos, instead.")
@click.option("--detections", "files", multiple=True, metavar="NAME=PATH", help="Another detector's boxes, in the benchmark's own files.")
@click.option("--predictions", type=click.Path(file_okay=False, path_type=Path), help="Folder to write the boxes into, in those files.")
@click.option("--size", type=click.IntRange(32, 8192), help="Long side to which the photos are scaled.  [default: each model's]")
@click.option("--score", type=FRACTION, default=0.02, show_default=True, help="Lowest score kept.")
@iou_option
@view_options
@click.option("--threads", type=click.IntRange(1, 256), default=1, show_default=True, help="Threads that share the work of a photo.")
@click.option("--report", type=click.Path(dir_okay=False, path_type=Path), help="Write an HTML page: curves, worst photos, cost.")
@click.option("--plot", "plots", multiple=True, type=click.Path(dir_okay=False, path_type=Path), help="Write the curves: .png or .svg.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each detector.")
def command(
    models: tuple[str, ...],
    more_models: tuple[str, ...],
    wider: Path | None,
    split: str | None,
    fddb: Path | None,
    files: tuple[str, ...],
    predictions: Path | None,
    size: int | None,
    score: float,
    iou: float | None,
    sizes: tuple[int, ...] | None,
    flip: bool,
    vote: bool,
    threads: int,
    report: Path | None,
    plots: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Score each MODEL by the rules of WIDER FACE or FDDB (docs/evaluation.md): a name that ships with dupnet, a .dnet file, a
    checkpoint, or EResFD's published weights.

    Checkpoints (.pt, .pth), also of networks with float layers, are run by torch.

    On WIDER FACE, prints the average precision on the easy, medium, hard and all faces, and the part of the medium faces found at
    0.1 false positives a photo; on FDDB, the discrete and continuous true positive rates at 284 false positives. Several models,
    and other detectors' boxes from files, are compared on the same photos:

    \b
        dupnet evaluate a.dnet b.dnet --wider FACES --detections "YuNet=trees/yunet" --report out.html
    """
    from dupnet.cli.benchmarks import open_fddb, open_wider

    models += more_models
    sizes = chosen_sizes(size, sizes)
    if (wider is None) == (fddb is None):
        raise click.UsageError("give one data set: --wider DIR or --fddb DIR")
    if fddb and split:
        raise click.UsageError("--split is for --wider")
    if predictions and len(models) != 1:
        raise click.UsageError(f"--predictions needs one MODEL, not {len(models)}")
    _check_pictures(report, plots, detectors=len(models) + len(files))
    read = [_files(text) for text in files]
    if predictions:
        _check_apart(predictions, read)
        predictions.mkdir(parents=True, exist_ok=True)
    contenders = _distinct([_model(model, sizes, flip, vote, score, iou, threads) for model in models] + read)
    benchmark = open_fddb(fddb) if fddb else open_wider(wider or Path(), split or "val")
    results = [_measure(contender, benchmark, predictions) for contender in contenders]
    if as_json:
        for result in results:
            click.echo(_json(result))
    else:
        _print(results, benchmark)
    if not plots and not report:
        return
    outcomes = [benchmark.outcome(result.contender.name, result.found) for result in results]
    if plots:
        from dupnet.evaluation import plots as drawing

        for path in plots:
            drawing.save(outcomes, path, title=benchmark.title)
    if report:
        _write_report(report, results, outcomes, benchmark)


def _check_apart(predictions: Path, read: Sequence[Contender]) -> None:
    """Boxes are not written where others are read from."""
    for place in (contender.source for contender in read if isinstance(contender.source, Path)):
        mine, theirs = predictions.resolve(), place.resolve()
        if mine.is_relative_to(theirs) or theirs.is_relative_to(mine):
            raise click.UsageError(f"--predictions {predictions} would write where --detections reads, {place}")


def _check_pictures(report: Path | None, plots: Sequence[Path], *, detectors: int) -> None:
    """What can be known to fail fails before the photos are read: a wrong name, a missing folder, a missing library."""
    from dupnet.errors import DataError

    if plots or report:
        from dupnet.evaluation import plots as drawing

        drawing.check_count(detectors)
        for path in plots:
            drawing.check_suffix(path)
    if report:
        import dupnet.evaluation.report  # noqa: F401
    paths = [*plots, *([report] if report else [])]
    if len({path.resolve() for path in paths}) < len(paths):
        raise click.UsageError("--plot and --report need a file of its own each")
    for path in paths:
        if not path.parent.is_dir():
            raise DataError(f"{path}: the folder {path.parent} does not exist")
        if path.exists() and not path.is_file():
            raise DataError(f"{path}: exists and is no ordinary file")
    if report and report.suffix not in (".html", ".htm"):
        raise DataError(f"{report}: a report is a page, so its name ends in .html")


def _model(model: str, sizes: tuple[int, ...], flip: bool, vote: bool, score: float, iou: float | None, threads: int) -> Contender:
    """A packed model or a checkpoint: whatever finds boxes in a photo by itself."""
    from dupnet import integer, packed, zoo
    from dupnet.cli.detectors import looking, open_detector
    from dupnet.runtime import Detector
    from dupnet.spec import ModelSpec
    from dupnet.views import Views

    detector = open_detector(model, threads=threads)
    path = zoo.model_path(model)
    views = Views(sizes or (detector.default_size,), flip, vote)
    sides = ", ".join(map(str, views.sizes))
    overlap = detector.default_iou if iou is None else iou
    spec = integer.spec_of(packed.load(path)) if isinstance(detector, Detector) else detector.network.spec
    by = f"kernels {detector.kernels}" if isinstance(detector, Detector) else f"torch on {next(detector.network.parameters()).device.type}"
    conditions = {
        "Model": f"{model}, as shipped" if model == detector.name else str(path),
        "SHA-256": key_of(path),
        "Long side": f"{sides} px",
        "Looks per photo": f"{views.passes}" + ", also mirrored" * flip + ", merged by voting" * vote,
        "Lowest score": f"{score:g}",
        "Suppression": f"IoU above {overlap:g}",
        "Run by": f"{by}, {threads} thread{'s' * (threads > 1)}",
    }
    return Contender(
        detector.name,
        looking(detector, views, score=score, iou=overlap),
        conditions,
        spec if isinstance(spec, ModelSpec) else None,
        path.stat().st_size if isinstance(detector, Detector) else None,
        {
            "model": detector.name,
            "size": views.sizes[0] if len(views.sizes) == 1 else views.sizes,
            "flip": flip,
            "vote": vote,
            "score": score,
            "iou": overlap,
        },
    )


def _files(text: str) -> Contender:
    name, equals, path = text.partition("=")
    if not equals or not name or not Path(path).exists():
        raise click.BadParameter(f"expected NAME=PATH with a PATH that exists, found {text!r}", param_hint="--detections")
    return Contender(name, Path(path), {"Model": f"boxes from {path}"}, None, None, {"model": name, "detections": path})


def _distinct(contenders: list[Contender]) -> list[Contender]:
    """The contenders, each under a name of its own: files are told apart where the models in them have the same name."""
    from dataclasses import replace

    if not contenders:
        raise click.UsageError("nothing to measure: give a MODEL or --detections NAME=PATH")
    # The shortest addition that tells all apart: a name that says enough does not need the whole path of its file.
    for short in (True, False):
        tells = [f"{c.name} ({_origin(c, short=short)})" for c in contenders]
        if len(set(tells)) == len(tells):
            break
    else:
        raise click.UsageError(f"{next(tell for tell in tells if tells.count(tell) > 1)}: is given twice")
    names = [contender.name for contender in contenders]
    return [replace(c, name=tell) if names.count(c.name) > 1 else c for c, tell in zip(contenders, tells)]


def _origin(contender: Contender, *, short: bool) -> str:
    """Where a contender came from: its path or, short, the last part of it; a shipped model's own name is not said twice."""
    model = contender.conditions["Model"]
    return Path(model).name.removeprefix(f"{contender.name}, ") if short else model


def _measure(contender: Contender, benchmark: Benchmark, predictions: Path | None) -> Result:
    """Run or read, and score; the boxes of a model are left in the folder of `predictions`."""
    start = time.perf_counter()
    if isinstance(contender.source, Path):
        found = benchmark.read(contender.source)
    else:
        found = benchmark.run(contender.source)
        if predictions:
            benchmark.write(predictions, found)
    seconds = round(time.perf_counter() - start, 1)
    numbers, row = benchmark.score(found)
    return Result(contender, numbers, row, found, seconds)


def _json(result: Result) -> str:
    return json.dumps({**result.contender.settings, **without_nan(result.numbers), "seconds": result.seconds})


def _print(results: Sequence[Result], benchmark: Benchmark) -> None:
    for result in results:
        settings = ", ".join(f"{key.lower()} {value}" for key, value in result.contender.conditions.items() if key != "SHA-256")
        click.echo(f"{result.contender.name}: {settings}, {result.seconds} s")
    click.echo(f"{benchmark.where}\n")
    names = ["", *(result.contender.name for result in results)] if len(results) > 1 else []
    width = max(map(len, names), default=-2) + 2
    click.echo(" " * width + benchmark.heading)
    for result in results:
        click.echo((f"{result.contender.name:{width}}" if names else "") + result.row)


def _about(benchmark: Benchmark) -> dict[str, str]:
    from dupnet import __version__, bench

    return {
        **benchmark.about,
        "Machine": f"{bench.processor()}, {os.cpu_count()} logical processors, {platform.system()} {platform.machine()}",
        "Versions": f"dupnet {__version__}, Python {platform.python_version()}",
        "Command": shlex.join(["dupnet", *sys.argv[1:]]),
    }


def _write_report(path: Path, results: Sequence[Result], outcomes: Sequence[Outcome], benchmark: Benchmark) -> None:
    from dupnet import cost
    from dupnet.evaluation import report

    entries = [
        report.Entry(
            outcome,
            result.contender.conditions,
            cost.count(result.contender.spec, COST_SIZE_HW) if result.contender.spec else None,
            result.contender.file_bytes,
        )
        for result, outcome in zip(results, outcomes, strict=True)
    ]
    took = ", ".join(f"{result.contender.name} {result.seconds:g} s" for result in results if not isinstance(result.contender.source, Path))
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC") + (f"; reading and detecting took {took}" if took else "")
    report.write(path, entries, benchmark.images, title=benchmark.title, about=_about(benchmark), date=date)
