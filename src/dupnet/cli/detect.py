"""`dupnet detect`: photos in, one line a face out.

A photo's way from here: `Detector.detect` (runtime.py) reads it (image.py) and hands its pixels through
`bindings/_core.cpp` to the C core, which scales it (core/dn_image.c), runs the network (core/dn_run.c) and decodes boxes
(core/dn_head.c); they come back as `Detections` (detections.py), which this module prints and draws.
"""

from __future__ import annotations

import csv
import io
import json
import sys
import warnings
from pathlib import Path

import click

from dupnet.cli import report, say
from dupnet.cli.parameters import FRACTION, chosen_sizes, iou_option, view_options
from dupnet.detections import Detections
from dupnet.errors import DataError, DupnetError

PICTURES = (".png", ".jpg", ".jpeg")
"""What `--draw` can write."""


def _paths(_: click.Context, __: click.Parameter, names: tuple[str, ...]) -> tuple[Path, ...]:
    if "" in names:  # a shell's unset variable, and a Path of it would be the current folder
        raise click.BadParameter("a photo's name is empty")
    return tuple(map(Path, names))


@click.command()
@click.argument("photos", nargs=-1, required=True, type=click.Path(readable=False), callback=_paths, metavar="PHOTO...")
@click.option("--draw", type=click.Path(path_type=Path), metavar="OUT", help="Draw the boxes: a file for one photo, a folder for more.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a photo: {photo, faces: [{box, score}]}.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV: photo,x1,y1,x2,y2,score.")
@click.option(
    "--size",
    type=click.IntRange(32, 8192),
    help="Long side in pixels; larger finds smaller faces.  [default: the model's]",
)
@click.option("--score", type=FRACTION, help="Lowest score kept.  [default: the model's]")
@iou_option
@click.option(
    "--model", help="A name that ships with dupnet, a .dnet file, or a checkpoint (.pt, .pth; needs torch).  [default: the bundled one]"
)
@view_options
@click.option("--threads", type=click.IntRange(1, 256), default=1, show_default=True, help="Threads that share the work of a photo.")
def command(
    photos: tuple[Path, ...],
    draw: Path | None,
    as_json: bool,
    as_csv: bool,
    size: int | None,
    score: float | None,
    iou: float | None,
    model: str | None,
    sizes: tuple[int, ...] | None,
    flip: bool,
    vote: bool,
    threads: int,
) -> None:
    """Find faces in each PHOTO: a file, or a folder, which is searched with the folders below it (links to folders
    are not followed).

    Prints one line a face: the photo, the box x1 y1 x2 y2 in its pixels, the score. A photo that cannot be read, or
    whose drawing cannot be written, is reported and the others go on; the exit code is then 1.
    """
    from tqdm import tqdm

    from dupnet.cli.detectors import looking, open_detector
    from dupnet.views import Views

    if as_json and as_csv:
        raise click.UsageError("--json and --csv: give one of them")
    format = "json" if as_json else "csv" if as_csv else None
    sizes = chosen_sizes(size, sizes)
    warnings.filterwarnings("ignore", "Image size .* exceeds limit")  # such a photo is refused with an error of its own
    of_each = [_found(photo, draw) for photo in photos]
    found = [pair for pairs in of_each for pair in pairs]
    drawings = _drawings(found, draw, one_file=len(photos) == 1 and not photos[0].is_dir())
    failed = False
    for photo, pairs in zip(photos, of_each):
        if not pairs:
            report(f"{photo}: the folder holds no photo")
            failed = True
    detector = open_detector(model, threads=threads)
    find = looking(detector, Views(sizes or (detector.default_size,), flip, vote), score=score, iou=iou)
    if format == "csv":
        click.echo("photo,x1,y1,x2,y2,score")
    hidden = len(found) < 2 or not sys.stderr.isatty()
    for (path, _), drawing in zip(tqdm(found, unit="photo", disable=hidden), drawings):
        try:
            faces = find(path)
            if drawing is not None:
                _save(faces, drawing)
        except DupnetError as error:
            report(str(error))
            failed = True
        except MemoryError:
            report(f"{path}: needs more memory than is free at {max(sizes or (detector.default_size,))} pixels; --size makes it less")
            failed = True
        else:
            _print(path, faces, format)
    sys.exit(1 if failed else 0)


def _found(photo: Path, draw: Path | None) -> list[tuple[Path, Path]]:
    """The photos that an argument stands for, each with its path below it.

    What an earlier call drew into a folder within it is not among them.
    """
    from dupnet import image

    paths = image.find(photo)
    drawn = draw.resolve() if draw else None
    if drawn and photo.resolve() in drawn.parents:
        paths = [path for path in paths if drawn not in path.resolve().parents]
    return [(path, path.relative_to(photo) if path != photo else Path(path.name)) for path in paths]


def _save(faces: Detections, drawing: Path) -> None:
    try:
        drawing.parent.mkdir(parents=True, exist_ok=True)
        faces.save(drawing)
    except OSError as error:
        raise DataError(f"{drawing}: cannot be written: {error.strerror or error}") from None


def _print(path: Path, faces: Detections, format: str | None) -> None:
    name = click.format_filename(path)
    if format == "json":
        say(json.dumps({"photo": name, "faces": faces.to_list()}))
    elif format == "csv":
        if len(faces):
            text = io.StringIO()
            rows = csv.reader(faces.to_csv().splitlines()[1:])
            csv.writer(text, lineterminator="\n").writerows([name, *row] for row in rows)
            say(text.getvalue().removesuffix("\n"))
    elif len(faces):
        say("\n".join(f"{name}  {x1:.1f} {y1:.1f} {x2:.1f} {y2:.1f}  {score:.3f}" for (x1, y1, x2, y2), score in faces))
    else:
        say(f"{name}: no face", err=True)


def _drawings(found: list[tuple[Path, Path]], out: Path | None, *, one_file: bool) -> list[Path | None]:
    """The file to draw each photo into: `out` itself for one photo, else a name of its own below the folder `out`."""
    if out is None:
        return [None] * len(found)
    if one_file and not out.is_dir():
        if out.suffix.lower() not in PICTURES:
            raise click.UsageError(f"--draw {out}: for one photo this is a file that ends in {', '.join(PICTURES)}")
        targets = [out]
    elif out.is_file() or (out.suffix.lower() in PICTURES and not out.is_dir()):
        raise click.UsageError(f"--draw {out}: for several photos this is a folder, not a file")
    else:
        targets = [out / (name if name.suffix.lower() in PICTURES else Path(f"{name}.png")) for _, name in found]
    photos, taken = {path.resolve() for path, _ in found}, set()
    for target in targets:
        if target.resolve() in photos:
            raise click.UsageError(f"--draw would overwrite the photo {target}")
        if target in taken:
            raise click.UsageError(f"--draw: two photos would be drawn into {target}")
        taken.add(target)
    return list(targets)
