"""`dupnet bench`: how fast a model is here, stage by stage, and beside other detectors."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dupnet.cli.parameters import SIZE_HW, FiniteRange

if TYPE_CHECKING:
    from dupnet.bench import Bench


@click.command()
@click.argument("model_word", metavar="[MODEL]", default="")
@click.option("--model", help="MODEL in the way of `dupnet detect`.  [default: the bundled one]")
@click.option("--size", type=SIZE_HW, default="640x480", show_default=True, help="Width x height of the photo; nothing is resized.")
@click.option("--threads", type=click.IntRange(1, 256), default=1, show_default=True, help="Threads, for the peers as well.")
@click.option("--isa", default="", help="Kernels to use; -NAME forbids some.  [default: the fastest]")
@click.option("--photo", type=click.Path(exists=True, dir_okay=False), help="A photo, scaled to the size first.  [default: noise]")
@click.option("--peers", type=click.Path(exists=True, file_okay=False), metavar="DIR", help="Folder with peers.py, to run beside.")
@click.option("--peer", "names", multiple=True, help="What peers.py is asked for; repeatable.  [default: yunet_s]")
@click.option("--roofline", is_flag=True, help="Compare with the measured peak of the instructions used.")
@click.option("--seconds", type=FiniteRange(0.01, 600), default=3.0, show_default=True, help="How long to repeat.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    model_word: str,
    model: str | None,
    size: tuple[int, int],
    threads: int,
    isa: str,
    photo: str | None,
    peers: str | None,
    names: tuple[str, ...],
    roofline: bool,
    seconds: float,
    as_json: bool,
) -> None:
    """Measure MODEL, a name that ships with dupnet or a .dnet file: medians of one detection and of its stages; or a checkpoint or
    EResFD's published weights (.pt, .pth), which torch runs as a whole.

    A detection goes from pixels to boxes: decoding and suppression count, reading and resizing do not. The peers take turns
    with it. With --roofline, a stage's "least" time is that of its vector instructions alone at their measured peak, every lane in
    use.
    """
    from dupnet import _core, bench, zoo
    from dupnet.cli.detectors import open_detector
    from dupnet.runtime import DEFAULT_MODEL

    if model and model_word:
        raise click.UsageError(f"give one model, not {model_word} and --model {model}")
    if names and not peers:
        raise click.UsageError("--peer names a detector of the peers.py in --peers DIR; give that, too")
    model, names = model or model_word or DEFAULT_MODEL, names or ("yunet_s",)
    known = _core.kernels()
    if isa and not isa.startswith("-") and isa not in known:
        raise click.BadParameter(f"no kernels {isa!r} run here, but {', '.join(known)}", param_hint="--isa")
    if not 32 <= max(size) <= 8192:
        raise click.BadParameter(f"the long side must be 32 to 8192 pixels, not {max(size)}", param_hint="--size")
    picture = Path(photo) if photo else None
    if zoo.is_checkpoint(model):
        if isa or roofline:
            raise click.UsageError(f"{model} runs in torch; --isa and --roofline are about the C core's kernels")
        result = bench.measure_detector(
            open_detector(model, threads=threads), size, threads=threads, photo=picture, peers=peers, peer_names=names, seconds=seconds
        )
    else:
        result = bench.measure(
            model,
            size,
            threads=threads,
            isa=isa,
            photo=picture,
            peers=peers,
            peer_names=names,
            roofline=roofline,
            seconds=seconds,
        )
    if as_json:
        click.echo(json.dumps(asdict(result), indent=2))
        return
    by = f"kernels {result.isa}" if result.stages else result.isa
    click.echo(f"{result.model}, {result.size}, {by}, {result.threads} thread{'s' * (result.threads > 1)} of {result.processor}\n")
    if result.stages:
        _print_stages(result, roofline)
    click.echo(f"one detection: median {result.median_ms:.3f} ms, least {result.min_ms:.3f} ms ({result.repetitions} repetitions)")
    for peer in result.peers:
        click.echo(f"{peer.name}: median {peer.median_ms:.3f} ms; {result.model} takes {peer.ratio:.3f} of that")
    for way, rate in result.peaks.items():
        click.echo(f"measured peak of {way}: {rate / 1e9:.2f} G vector instructions a second, each with its addition")
    if result.peak_share is not None:
        click.echo(f"the whole network reaches {result.peak_share:.1%} of its instructions' peak")


def _print_stages(result: Bench, roofline: bool) -> None:
    least = f"{'least ms':>10}" if roofline else ""
    click.echo(f"{'':8}{'way':>10}{'ms':>9}{'share':>8}{'M MACs':>9}{'after':>9}{'GMAC/s':>9}{least}")
    for stage in result.stages:
        least = "" if not roofline else f"{'-':>10}" if stage.least_ms is None else f"{stage.least_ms:10.3f}"
        click.echo(
            f"{stage.name:8}{stage.way:>10}{stage.median_ms:9.3f}{stage.share:8.1%}{stage.macs / 1e6:9.1f}"
            f"{stage.effective_macs / 1e6:9.1f}{stage.gmacs_per_s:9.1f}{least}"
        )
    sums = [sum(getattr(stage, field) for stage in result.stages) for field in ("median_ms", "macs", "effective_macs")]
    click.echo(f"{'stages':18}{sums[0]:9.3f}{1:8.1%}{sums[1] / 1e6:9.1f}{sums[2] / 1e6:9.1f}{sums[2] / sums[0] / 1e6:9.1f}")
    click.echo()
