"""Prediction files: what a detector found on a whole benchmark, in the formats of FDDB and WIDER FACE.

Both are blocks of a name, a count and lines `x y w h score`. FDDB has one file for all photos or one for each fold; WIDER FACE
has one file for each photo, `EVENT/PHOTO.txt`. Everything is read and written in float64 and loses nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dupnet import files
from dupnet.data.fddb import FddbPhoto, read_blocks
from dupnet.errors import DataError

Floats = NDArray[np.float64]


class Found(Protocol):
    """Boxes and scores of one photo: `dupnet.detections.Detections`, or `Boxes` where float32 is not enough."""

    @property
    def xyxy(self) -> NDArray[np.floating]:
        """`(n, 4)`."""

    @property
    def scores(self) -> NDArray[np.floating]:
        """`(n,)`, descending."""

    def __len__(self) -> int: ...


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes of one photo as a file gives them, the surest first; equal scores keep the file's order.

    Attributes:
        xyxy: `(n, 4) float64`, x1 y1 x2 y2 in pixels of the photo.
        scores: `(n,) float64`, any range, descending.
    """

    xyxy: Floats
    scores: Floats

    def __len__(self) -> int:
        return len(self.scores)


def rows(found: Found) -> Floats:
    """`(n, 5) float64` x y w h score."""
    xyxy = found.xyxy.astype(np.float64)
    return np.concatenate([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2], found.scores.astype(np.float64)[:, None]], axis=1)


def read_fddb(path: str | Path, photos: Iterable[FddbPhoto]) -> list[Floats]:
    """Read detections in FDDB's format.

    Args:
        path: one file for all photos, or a folder with a file for each fold (`fold-01-out.txt` or `FDDB-det-fold-01.txt`).
        photos: those of the benchmark. The files may name them in any order, with or without `.jpg`.

    Returns:
        For each photo its rows, in the file's order: `(n, 5) float64` x y w h score, or, if the files hold ellipses, `(n, 6)`:
        two half axes, angle in radians, centre x y, score.

    Raises:
        DataError: a file is not what the format says; a photo is missing, unknown or there twice.
    """
    path, photos = Path(path), list(photos)
    found: dict[str, Floats] = {}
    columns: tuple[int, ...] = (5, 6)
    for file in _fold_files(path):
        for name, block in read_blocks(file, columns=columns, what="'x y w h score' or 'ra rb angle x y score'"):
            name = re.sub(r"\.jpe?g$", "", name, flags=re.IGNORECASE)
            if name in found:
                raise DataError(f"{file}: {name!r} is there twice")
            if len(block):
                columns = (block.shape[1],)
            found[name] = block
    names = {photo.name for photo in photos}
    if unknown := [name for name in found if name not in names]:
        raise DataError(f"{path}: {len(unknown)} of {len(found)} photos are not of the benchmark, such as {unknown[0]!r}")
    if missing := [photo.name for photo in photos if photo.name not in found]:
        raise DataError(
            f"{path}: {len(missing)} of {len(photos)} photos are missing, such as {missing[0]!r}: one without detections has count 0"
        )
    if columns == (6,) and any(len(block) and block[:, :2].min() < 0 for block in found.values()):
        raise DataError(f"{path}: an ellipse has a negative radius")
    return [found[photo.name].reshape(-1, columns[0]) for photo in photos]


def _fold_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    folds: dict[int, Path] = {}
    for file in sorted(path.glob("*.txt")):
        if (match := re.search(r"fold[-_]?(\d+)", file.name)) and "ellipse" not in file.name:
            if int(match[1]) in folds:
                raise DataError(f"{path}: both {folds[int(match[1])].name} and {file.name} are fold {int(match[1])}")
            folds[int(match[1])] = file
    if not folds:
        raise DataError(f"{path}: no file of a fold in it, such as fold-01-out.txt or FDDB-det-fold-01.txt")
    return [folds[fold] for fold in sorted(folds)]


def write_fddb(folder: str | Path, photos: Iterable[FddbPhoto], found: Iterable[Floats]) -> None:
    """Write detections in FDDB's format, a file `fold-NN-out.txt` for each fold.

    Args:
        folder: made if it does not exist.
        photos: those of the benchmark.
        found: their rows, as from `read_fddb`.
    """
    folds: dict[int, list[str]] = {}
    for photo, block in zip(photos, found, strict=True):
        folds.setdefault(photo.fold, []).append(_block(photo.name, block))
    for fold, blocks in folds.items():
        write_text(Path(folder) / f"fold-{fold:02d}-out.txt", "".join(blocks))


def read_wider(tree: str | Path, photos: Iterable[str]) -> list[Boxes]:
    """Read WIDER FACE's prediction tree. Boxes that are not in descending order of their scores are brought into it.

    Args:
        tree: the folder that holds the folders of the events.
        photos: `EVENT/PHOTO.jpg` of each photo to read. Other files are not looked at.

    Raises:
        DataError: a photo's file is missing, is not what the format says, or names another photo; two photos have one file.
    """
    photos = _with_files_of_their_own(photos)
    if missing := [photo for photo in photos if not tree_file(tree, photo).exists()]:
        raise DataError(f"{tree}: {len(missing)} of {len(photos)} photos are missing, such as {tree_file(tree, missing[0])}")
    return [_read_wider_file(tree_file(tree, photo), photo) for photo in photos]


def covered(tree: str | Path, photos: Iterable[str]) -> list[str]:
    """Those of the photos that have a file in a prediction tree."""
    return [photo for photo in photos if tree_file(tree, photo).exists()]


def tree_file(tree: str | Path, photo: str) -> Path:
    """Where a prediction tree has the boxes of a photo."""
    return Path(tree) / Path(photo).with_suffix(".txt")


def _with_files_of_their_own(photos: Iterable[str]) -> list[str]:
    """The photos, none of which has the same file in a tree as another."""
    files: dict[Path, str] = {}
    for photo in photos:
        if (other := files.setdefault(tree_file("", photo), photo)) != photo:
            raise DataError(f"{other} and {photo} would have the same prediction file; photos' names must differ without their suffixes")
    return list(files.values())


def _read_wider_file(file: Path, photo: str) -> Boxes:
    blocks = read_blocks(file, columns=tuple(range(5, 100)), what="'x y w h score'")
    if len(blocks) != 1:
        raise DataError(f"{file}: expected the boxes of one photo, found those of {len(blocks)}")
    name, block = blocks[0]
    if re.split(r"[/\\]", name)[-1] not in (Path(photo).name, Path(photo).stem, f"{Path(photo).stem}.jpg"):
        raise DataError(f"{file}: expected the name of {photo}, found {name[:60]!r}")
    block = block[np.argsort(-block[:, 4], kind="stable")]
    return Boxes(np.concatenate([block[:, :2], block[:, :2] + block[:, 2:4]], axis=1), block[:, 4])


def write_wider(tree: str | Path, photos: Iterable[str], found: Iterable[Found]) -> None:
    """Write WIDER FACE's prediction tree, as the official evaluation reads it: every photo, also those without boxes.

    Args:
        tree: made if it does not exist.
        photos: `EVENT/PHOTO.jpg` of each.
        found: the boxes in each.

    Raises:
        DataError: two photos would have the same file, or one cannot be written.
    """
    for photo, boxes in zip(_with_files_of_their_own(photos), found, strict=True):
        write_text(tree_file(tree, photo), _block(Path(photo).stem, rows(boxes)))


def _block(name: str, block: Floats) -> str:
    """A name, a count and the rows, in as many digits as float64 needs."""
    return "\n".join([name, str(len(block)), *(" ".join(map(repr, row)) for row in block.tolist())]) + "\n"


def write_text(path: Path, text: str) -> None:
    """Write a file, with the folders above it; it appears whole or not at all.

    Raises:
        DataError: it cannot be written.
    """
    try:
        files.write_text(path, text)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from None
