"""Small text files, written so that a reader or a killed process never meets half of one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8; a complete file is there afterwards, or the old one is untouched. Missing folders are made."""
    part = Path(f"{path}.{os.getpid()}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: str | Path, content: dict[str, Any]) -> None:
    """Write plain data as JSON, as `write_text` does."""
    write_text(path, json.dumps(content, indent=1) + "\n")
