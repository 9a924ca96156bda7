"""What the tests of experiments share: the drawn data set with a difficulty."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dupnet.data import wider


@pytest.fixture(scope="session")
def faces(tiny_wider: Path) -> Path:
    """The drawn data set with a difficulty: every face that counts is easy."""
    samples, _ = wider.split(tiny_wider, "val")
    counts = {s.photo: [n for n in range(len(s.boxes)) if not s.ignore[n]] for s in samples}
    table = {photo: {"easy": faces, "medium": faces, "hard": faces} for photo, faces in counts.items()}
    (tiny_wider / "wider_face_split" / "val_difficulty.json").write_text(json.dumps(table))
    return tiny_wider
