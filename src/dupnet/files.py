"""Files that a reader or a killed process never meets half of."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


def key_of(path: str | os.PathLike[str]) -> str:
    """The first 16 hexadecimal digits of a SHA-256, by which results know what they were computed from: of a file's content, or of the
    names and contents of a folder's files, wherever it lies."""
    if not Path(path).is_dir():
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
    files = sorted((file.relative_to(path).as_posix(), key_of(file)) for file in Path(path).rglob("*") if file.is_file())
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()[:16]


def keys_of(**roles: str) -> dict[str, str]:
    """The keys of what these paths lead to, by the role that each plays; of what is not there, or has no path, none."""
    return {role: key_of(path) for role, path in roles.items() if path and Path(path).exists()}


def without_nan(numbers: dict[str, Any]) -> dict[str, Any]:
    """The same numbers for JSON, which has no word for NaN: None in its place."""
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in numbers.items()}


@contextmanager
def whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Where to write a file's content: a hidden file beside it, which takes its place when the block ends well, and goes when it fails.

    A link stays, what it points to is replaced, and keeps its permissions. What exists and is no regular file (`/dev/stdout`, a pipe) is
    written directly: replacing it would remove the device.

    Raises:
        OSError: the file cannot be written; its `filename` is `path`, not the hidden file's.

    Example:
        >>> with whole("numbers.txt") as part:  # doctest: +SKIP
        ...     part.write_text("1 2 3")
    """
    target = Path(os.path.realpath(path))
    direct = target.exists() and not target.is_file() and not target.is_dir()
    # A name that no other thread, process or machine chooses, and no longer for a long one: file systems take 255 bytes.
    part = target if direct else target.with_name(f".{os.urandom(8).hex()}.part")
    try:
        yield part
        if not direct:
            if target.is_file():
                shutil.copymode(target, part)
            os.replace(part, target)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None
    finally:
        if not direct:
            with suppress(OSError):
                part.unlink()


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` as UTF-8, lines ending as they are, whole or not at all. Missing folders are made."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as part:
        part.write_text(text, encoding="utf-8", newline="")


def write_json(path: str | os.PathLike[str], content: dict[str, Any]) -> None:
    """Write plain data as JSON, as `write_text` does.

    Raises:
        ValueError: a number is not finite; JSON has no word for that.
    """
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
