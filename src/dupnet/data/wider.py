"""The WIDER FACE annotation format: `wider_face_split/wider_face_SPLIT_bbx_gt.txt` and `WIDER_SPLIT/images/`.

One entry a photo: its path, the number of faces, then a line for each face, `x y w h` and up to six attributes of which the
fourth, `invalid`, means ignore. A photo without faces has the count 0 and, in the official files, one line of zeros.
`wider_face_SPLIT.mat` holds the same.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from dupnet.data.sample import Sample
from dupnet.errors import DataError
from dupnet.files import key_of

INVALID = 7
"""Column of the `invalid` attribute, after `x y w h blur expression illumination`."""


def read(list_path: str | Path) -> list[Sample]:
    """Read an annotation list; every box stays, in the file's order.

    A box without area (the official files have some) becomes an ignore region, as does one marked invalid.

    Args:
        list_path: a file in the format above.

    Raises:
        DataError: the file cannot be read, or a line is not what the format says; names file and line.
    """
    try:
        lines = Path(list_path).read_text(encoding="utf-8-sig").splitlines()  # some editors begin a file with a mark
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{list_path}: cannot be read: {error}") from None
    samples, at = [], 0
    while at < len(lines):
        photo = lines[at].strip()
        at += 1
        if not photo:
            continue
        where = f"{list_path}: line {at + 1}: "
        count = lines[at].strip() if at < len(lines) else ""
        if not re.fullmatch("[0-9]{1,9}", count):
            raise DataError(f"{where}expected the number of faces of {photo!r}, found {count[:60]!r}")
        at += 1
        rows = []
        for number in range(at, at + int(count)):
            fields = lines[number].split() if number < len(lines) else []
            try:
                values = [float(field) for field in fields]
            except ValueError:
                values = []
            if not 4 <= len(values) <= 10 or not np.all(np.isfinite(values)):
                found = repr(lines[number][:60]) if number < len(lines) else "the end of the file"
                raise DataError(
                    f"{list_path}: line {number + 1}: expected 'x y w h' and up to 6 attributes of a face of {photo!r}, found {found}"
                )
            rows.append(values + [0.0] * (10 - len(values)))
        at += int(count)
        if count == "0" and at < len(lines) and _is_zero_line(lines[at]):
            at += 1
        table = np.array(rows, np.float64).reshape(-1, 10)
        boxes = np.concatenate([table[:, :2], table[:, :2] + table[:, 2:4]], axis=1)
        samples.append(Sample(photo, boxes, (table[:, INVALID] > 0) | (table[:, 2:4].min(axis=1, initial=np.inf) <= 0)))
    if not samples:
        raise DataError(f"{list_path}: holds no photo")
    if twice := [photo for photo, count in Counter(sample.photo for sample in samples).items() if count > 1]:
        raise DataError(f"{list_path}: {twice[0]} is listed twice")
    return samples


def _is_zero_line(line: str) -> bool:
    fields = line.split()
    return len(fields) >= 4 and all(field in ("0", "0.0") for field in fields)


def read_mat(path: str | Path) -> list[Sample]:
    """Read the same annotations from the official `wider_face_SPLIT.mat` (this needs scipy).

    Raises:
        DataError: the file cannot be read.
    """
    samples = []
    for photo, (xywh, invalid) in mat_table(path, "face_bbx_list", "invalid_label_list").items():
        table = np.asarray(xywh, np.float64).reshape(-1, 4)
        boxes = np.concatenate([table[:, :2], table[:, :2] + table[:, 2:]], axis=1)
        marked = np.asarray(invalid).reshape(-1) > 0
        if len(marked) != len(boxes):
            raise DataError(f"{path}: {photo} has {len(boxes)} boxes, but {len(marked)} of them are valid or not")
        samples.append(Sample(photo, boxes, marked | (table[:, 2:].min(axis=1, initial=np.inf) <= 0)))
    return samples


def mat_table(path: str | Path, *fields: str) -> dict[str, list[Any]]:
    """Lists by photo from one of the official `.mat` files: `{"EVENT/PHOTO.jpg": [entry of each field]}`.

    Raises:
        DataError: scipy, which reads them, is missing, or the file is not what it should be.
    """
    try:
        from scipy.io import loadmat
    except ImportError:
        raise DataError(f"{path}: reading it needs scipy: pip install 'dupnet[evaluation]'") from None
    try:
        table = loadmat(path)
        # Cells are arrays of objects, nested: an event's cell holds a column of photos, a photo's cell its matrix.
        columns = [[event.ravel() for event in table[field].ravel()] for field in ("file_list", *fields)]
        events = [str(event.ravel()[0]) for event in table["event_list"].ravel()]
        return {
            f"{event}/{name.ravel()[0]}.jpg": list(entries)
            for event, *lists in zip(events, *columns, strict=True)
            for name, *entries in zip(*lists, strict=True)
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise DataError(f"{path}: cannot be read: {type(error).__name__}: {error}") from None


def annotations_key(root: str | Path, name: str) -> str:
    """A hash of a split's annotation list: photos and boxes, wherever they lie.

    Raises:
        DataError: there is no such list.
    """
    path = _list(root, name)
    try:
        return key_of(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None


def split(root: str | Path, name: str) -> tuple[list[Sample], Path]:
    """The samples of a split of a data set in WIDER's folders, and the folder that their paths are relative to.

    Args:
        root: the folder that holds `WIDER_train`, `WIDER_val` and `wider_face_split`.
        name: `"train"` or `"val"`.

    Raises:
        DataError: something of it is missing.
    """
    images = Path(root) / f"WIDER_{name}" / "images"
    if not images.is_dir():
        raise DataError(f"{root}: not a WIDER FACE folder: {images} does not exist")
    return read(_list(root, name)), images


def _list(root: str | Path, name: str) -> Path:
    """The annotations of a split."""
    return Path(root) / "wider_face_split" / f"wider_face_{name}_bbx_gt.txt"
