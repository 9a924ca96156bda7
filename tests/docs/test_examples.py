"""The examples run: what they print is what their pages say."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_digits(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With a tenth of the training, far above chance (10 %); the example itself verifies each model."""
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    monkeypatch.setattr(sys, "argv", ["digits.py", "--epochs", "4"])
    runpy.run_path(str(ROOT / "examples" / "digits.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()[1:]
    accuracy = [float(line[46:66].split()[0]) for line in lines]
    assert len(lines) == 4 and min(accuracy) > 60 and accuracy[0] > 90
    weights = [line[66:].split()[0] for line in lines]
    page = (ROOT / "docs" / "digits.md").read_text()
    assert all(f"| {weight} |" in page for weight in weights), f"the page's table has other bytes than {weights}"
