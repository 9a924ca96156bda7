"""The FDDB annotation format: ten folds of photos whose faces are ellipses.

`FDDB-fold-NN-ellipseList.txt` holds, photo by photo, its name without `.jpg`, the number of faces, and for each face a line
`major_radius minor_radius angle centre_x centre_y 1`: half axes in pixels, the angle of the first in radians.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dupnet.errors import DataError

SIZES = "image_sizes.csv"
"""A table `image,width,height` with a header that stands in for the photos where only their sizes are needed."""


@dataclass(frozen=True, eq=False)
class FddbPhoto:
    """A photo of FDDB and its faces.

    Attributes:
        name: as the lists have it, such as `2002/08/11/big/img_591`: a path without its suffix.
        fold: 1 to 10.
        ellipses: `(n, 5) float64`: half axes, angle in radians, centre x y, in pixels.
    """

    name: str
    fold: int
    ellipses: NDArray[np.float64]


def read(root: str | Path) -> list[FddbPhoto]:
    """Read the faces of all folds, in their order.

    Args:
        root: a folder that holds the ellipse lists, itself or in `FDDB-folds`.

    Raises:
        DataError: there is no list, a fold is missing, or a line is not what the format says; names file and line.
    """
    folder = Path(root) / "FDDB-folds"
    folder = folder if folder.is_dir() else Path(root)
    lists = {int(m[1]): path for path in folder.glob("*.txt") if (m := re.fullmatch(r"FDDB-fold-(\d+)-ellipseList\.txt", path.name))}
    if not lists:
        raise DataError(f"{folder}: no FDDB-fold-NN-ellipseList.txt in it")
    if missing := sorted(set(range(1, max(max(lists), 10) + 1)) - set(lists)):
        raise DataError(f"{folder}: the ellipse list of fold {missing[0]} is missing: FDDB is scored on all ten folds")
    photos = []
    for fold, path in sorted(lists.items()):
        for name, rows in read_blocks(path, columns=(5, 6), what="'major_radius minor_radius angle x y 1'"):
            if len(rows) and rows[:, :2].min() < 0:
                raise DataError(f"{path}: a radius of a face of {name} is negative")
            photos.append(FddbPhoto(name, fold, rows[:, :5]))
    if not any(len(photo.ellipses) for photo in photos):
        raise DataError(f"{folder}: the ellipse lists hold no face")
    if len({photo.name for photo in photos}) != len(photos):
        raise DataError(f"{folder}: a photo is listed twice")
    return photos


def read_blocks(path: Path, *, columns: tuple[int, ...], what: str) -> list[tuple[str, NDArray[np.float64]]]:
    """Read a text file of blocks: a name, a count, and as many lines of numbers. Empty lines between blocks are skipped.

    Args:
        columns: how many numbers a line may have; all lines of the file have the same.
        what: those, in words, for the messages.

    Returns:
        `(name, (n, columns) float64)`, in the file's order; `(0, columns[0])` where the count is 0.

    Raises:
        DataError: names file and line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    blocks: list[tuple[str, NDArray[np.float64]]] = []
    at = 0
    while at < len(lines):
        name = lines[at].strip()
        at += 1
        if not name:
            continue
        count = lines[at].strip() if at < len(lines) else "the end of the file"
        if not re.fullmatch("[0-9]{1,9}", count):
            if len(name.split()) in columns:  # a row where a name should be
                raise DataError(f"{path}: line {at}: expected a photo's name, found {name[:60]!r}: more lines than the count before says")
            raise DataError(f"{path}: line {at + 1}: expected the number of boxes of {name!r}, found {count[:60]!r}")
        at += 1
        rows = []
        for number in range(at, at + int(count)):
            line = lines[number] if number < len(lines) else "the end of the file"
            try:
                values = [float(field) for field in line.split()]
            except ValueError:
                values = []
            if len(values) not in columns or not np.isfinite(values).all():
                raise DataError(f"{path}: line {number + 1}: expected {what} of {name!r}, found {line[:60]!r}")
            columns = (len(values),)
            rows.append(values)
        at += int(count)
        blocks.append((name, np.array(rows, np.float64).reshape(len(rows), columns[0])))
    return blocks


def sizes(root: str | Path, photos: list[FddbPhoto]) -> list[tuple[int, int]]:
    """Height and width of each photo, from `image_sizes.csv` if it is there, else from the photos.

    Raises:
        DataError: neither is there, or a photo is not in it.
    """
    table = _sizes_table(Path(root))
    if table is not None:
        try:
            return [table[photo.name] for photo in photos]
        except KeyError as error:
            raise DataError(f"{Path(root) / SIZES}: the size of {error} is missing") from None
    folder = photo_folder(root, photos, missing=f"neither {SIZES} nor the photos")
    result = []
    for photo in photos:
        path = photo_path(folder, photo)
        try:
            with Image.open(path) as picture:
                result.append((picture.height, picture.width))
        except OSError as error:
            raise DataError(f"{path}: its size cannot be read: {error}") from None
    return result


def _sizes_table(root: Path) -> dict[str, tuple[int, int]] | None:
    path = root / SIZES
    if not path.exists():
        return None
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            return {row["image"]: (int(row["height"]), int(row["width"])) for row in csv.DictReader(file)}
    except (OSError, UnicodeDecodeError, KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path}: expected a table image,width,height: {type(error).__name__}: {error}") from None


def photo_folder(root: str | Path, photos: list[FddbPhoto], *, missing: str = "the photos are not there") -> Path:
    """The folder that the photos' names are relative to: `originalPics` in or beside `root`, or `root` itself.

    Raises:
        DataError: the first photo is in none of them.
    """
    candidates = [Path(root) / "originalPics", Path(root), Path(root).parent / "originalPics"]
    for folder in candidates:
        if photo_path(folder, photos[0]).exists():
            return folder
    raise DataError(f"{root}: {missing}: expected {photo_path(candidates[0], photos[0])}")


def photo_path(folder: Path, photo: FddbPhoto) -> Path:
    """Where a photo is."""
    return folder / f"{photo.name}.jpg"
