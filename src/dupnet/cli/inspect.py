"""`dupnet inspect`: the stages of a packed model and the bytes that they take, in the file and in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from dupnet.cli.parameters import SIZE_HW


@click.command()
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with a list of stages.")
@click.option("--memory", is_flag=True, help="Show what a detection holds in memory, and who: whole maps and row streaming.")
@click.option("--size", type=SIZE_HW, help="With --memory: width x height of the photo as the network sees it.  [default: 640x480]")
@click.option("--photo", type=SIZE_HW, help="With --memory: width x height of the photo as it comes, if it is to be resized.")
def command(model: str, as_json: bool, memory: bool, size: tuple[int, int] | None, photo: tuple[int, int] | None) -> None:
    """Show what is in MODEL: a .dnet file, or a name that ships with dupnet."""
    if (size or photo) and not memory:
        raise click.UsageError("--size and --photo belong to --memory")
    if memory:
        _memory(model, size or (480, 640), photo, as_json)
        return
    from dupnet import packed, zoo

    path = zoo.model_path(model)
    loaded = packed.load(path)
    sizes = packed.stage_bytes(path.read_bytes())
    stages = [
        {
            "filters": stage.filters,
            "kernel": stage.kernel,
            "step": stage.step,
            "padding": stage.padding,
            "pool": stage.pool,
            "pool_step": stage.pool_step,
            "weight_bits": stage.weight_bits,
            "input_bits": stage.input_bits,
            "weight_copies": stage.weight_copies,
            "map_copies": stage.map_copies,
            "weight_bytes": size.weights,
            "threshold_bytes": size.thresholds,
            "weight_file_bytes": size.file_weights,
            "threshold_file_bytes": size.file_thresholds,
        }
        for stage, size in zip(loaded.stages, sizes)
    ]
    table = {
        "name": loaded.name,
        "file_bytes": path.stat().st_size,
        "default_size_px": loaded.default_size_px,
        "default_score": round(float(loaded.default_score), 6),
        "stride": loaded.stride,
        "classes": loaded.head.classes,
        "anchors": [[round(float(side), 4) for side in anchor] for anchor in loaded.head.anchors],
    }
    if as_json:
        click.echo(json.dumps({**table, "stages": stages}, indent=2))
        return
    click.echo(f"{path}: {loaded.name}, {table['file_bytes']:,} bytes")
    if loaded.head.classes:
        click.echo(f"{loaded.head.classes} classes, images of {loaded.default_size_px}x{loaded.default_size_px} pixels\n")
    else:
        click.echo(f"long side {loaded.default_size_px} pixels, score {table['default_score']} and above, stride {loaded.stride}")
        click.echo("anchors " + ", ".join(f"{w:.1f}x{h:.1f}" for w, h in loaded.head.anchors) + "\n")
    columns = ("filters", "kernel", "step", "pool", "pool step", "weight bits", "input bits", "weight copies", "map copies")
    click.echo("stage  " + "  ".join(columns) + "      weights (in file)   thresholds (in file)")
    for number, stage in enumerate(stages, 1):
        shape = "  ".join(f"{stage[column.replace(' ', '_')]:{len(column)}}" for column in columns)
        held = [
            f"{stage[f'{what}_bytes']:>11,} {'(' + format(stage[f'{what}_file_bytes'], ',') + ')':>10}" for what in ("weight", "threshold")
        ]
        click.echo(f"{number:5}  {shape}  {held[0]} {held[1]}")
    keys = ("weight_bytes", "weight_file_bytes", "threshold_bytes", "threshold_file_bytes")
    weights, file_weights, thresholds, file_thresholds = (sum(stage[key] for stage in stages) for key in keys)
    click.echo(f"\n{weights:,} bytes of weights are {file_weights:,} in the file, {thresholds:,} of thresholds {file_thresholds:,}")
    click.echo("the rest of the file is header, anchors, records and the head's scales")


def _memory(model: str, size_hw: tuple[int, int], photo_hw: tuple[int, int] | None, as_json: bool) -> None:
    """Print the arena of each way to run the model, and what its bytes are for."""
    from dupnet import _core, image, packed, zoo
    from dupnet.runtime import open_core

    path = zoo.model_path(model)
    if packed.load(path).head.classes:  # loading says what is wrong with a damaged file
        raise click.UsageError(f"{model} is a classifier; --memory is about photos of a detector")
    height, width = photo_hw or size_hw
    long = max(size_hw)
    if not 32 <= long <= 8192 or max(height, width) > image.MAX_SIDE_PX:
        raise click.UsageError(f"the long side of --size must be 32 to 8192 pixels, and a photo's at most {image.MAX_SIDE_PX}")
    if photo_hw and image.scaled_size(height, width, long) != size_hw:
        raise click.UsageError(f"a photo of {width}x{height} scaled to a long side of {long} is not {size_hw[1]}x{size_hw[0]}")
    core = open_core(path)
    modes = [_mode(open_core(path, name), f"whole maps, {name} kernels", width, height, long, rows=False) for name in _core.kernels()]
    by_rows = None
    try:
        modes.append(_mode(core, "row streaming", width, height, long, rows=True))
    except ValueError as error:  # a stage of another kind
        by_rows = f"row streaming: not possible, {error}"
    name = Path(path).stem
    if as_json:
        click.echo(json.dumps({"name": name, "size_hw": size_hw, "photo_hw": [height, width], "modes": modes}, indent=2))
        return
    click.echo(f"{name}: a photo of {width}x{height} pixels" + (f", resized to {size_hw[1]}x{size_hw[0]}" if photo_hw else ""))
    for mode in modes:
        resize = sum(part["bytes"] for part in mode["parts"] if part["what"].startswith("resize"))
        click.echo(f"\n{mode['mode']}: {mode['bytes']:,} bytes" + (f", {resize:,} of them for the resize" if resize else ""))
        for part in mode["parts"]:
            stage = f"stage {part['stage']}" if part["stage"] else ""
            click.echo(f"  {part['what']:20} {stage:8} {part['bytes']:>12,}")
    if by_rows:
        click.echo(f"\n{by_rows}")
    decoded = len(core.decoded)
    click.echo(
        f"\nNot counted: the photo, the packed file, its description (4.3 KB) and what is decoded of it ({decoded:,} bytes), the boxes."
    )


def _mode(model: Any, what: str, width: int, height: int, long: int, *, rows: bool) -> dict[str, Any]:
    parts = [
        {"what": name, "stage": stage + 1 if stage >= 0 else None, "bytes": count}
        for name, stage, count in model.arena_parts(width, height, size=long, rows=rows)
    ]
    arena = model.arena_bytes(width, height, size=long, rows=rows)
    parts.append({"what": "alignment", "stage": None, "bytes": arena - sum(part["bytes"] for part in parts)})
    if not rows:
        parts.append({"what": "prepared weights", "stage": None, "bytes": model.prepared_bytes})
        arena += model.prepared_bytes
    return {"mode": what, "bytes": arena, "parts": parts}
