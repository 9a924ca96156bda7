"""`dupnet inspect`: the stages of a packed model and the bytes that they take."""

from __future__ import annotations

import json

import click


@click.command()
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with a list of stages.")
def command(model: str, as_json: bool) -> None:
    """Show what is in MODEL: a .dnet file, or a name that ships with dupnet."""
    from dupnet import packed, zoo

    path = zoo.model_path(model)
    loaded = packed.load(path)
    stages = [
        {
            "filters": stage.filters,
            "kernel": stage.kernel,
            "pool": stage.pool,
            "weight_bits": stage.weight_bits,
            "input_bits": stage.input_bits,
            "weight_copies": stage.weight_copies,
            "map_copies": stage.map_copies,
            "weight_bytes": packed.weight_bytes(stage.filters, stage.weights.shape[1], stage.kernel, stage.weight_bits),
            "threshold_bytes": packed.threshold_bytes(stage.filters, stage.output_bits, stage.accumulator_max) if stage.output_bits else 0,
        }
        for stage in loaded.stages
    ]
    table = {
        "name": loaded.name,
        "file_bytes": path.stat().st_size,
        "default_size_px": loaded.default_size_px,
        "default_score": round(float(loaded.default_score), 6),
        "stride": loaded.stride,
        "anchors": [[round(float(side), 4) for side in anchor] for anchor in loaded.head.anchors],
    }
    if as_json:
        click.echo(json.dumps({**table, "stages": stages}, indent=2))
        return
    click.echo(f"{path}: {loaded.name}, {table['file_bytes']:,} bytes")
    click.echo(f"long side {loaded.default_size_px} pixels, score {table['default_score']} and above, stride {loaded.stride}")
    click.echo("anchors " + ", ".join(f"{w:.1f}x{h:.1f}" for w, h in loaded.head.anchors) + "\n")
    columns = ("filters", "kernel", "pool", "weight bits", "input bits", "weight copies", "map copies", "weight bytes", "threshold bytes")
    click.echo("stage  " + "  ".join(columns))
    for number, stage in enumerate(stages, 1):
        click.echo(f"{number:5}  " + "  ".join(f"{stage[column.replace(' ', '_')]:{len(column)}}" for column in columns))
    totals = [sum(stage[key] for stage in stages) for key in ("weight_bytes", "threshold_bytes")]
    click.echo(f"\n{totals[0]:,} bytes of weights, {totals[1]:,} of thresholds; the rest is header, anchors and the head's scales")
