"""benchmarks/same_curve.py: equal rows are counted, others measured."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
CURVE = ROOT / "models/curves/mean-portrait.csv"


def compare(ours: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, ROOT / "benchmarks/same_curve.py", CURVE, ours], capture_output=True, text=True)


def test_the_beginning_of_a_curve_repeats_it_whatever_the_time(tmp_path: Path) -> None:
    header, *rows = CURVE.read_text().splitlines()
    slower = [",".join([*row.split(",")[:2], "1e6", *row.split(",")[3:-1], "1"]) for row in rows[:4]]
    (tmp_path / "ours.csv").write_text("\n".join([header, *slower]) + "\n")
    assert compare(tmp_path / "ours.csv").stdout == "steps 50 to 200 of 2600: 4 of 4 rows equal to every digit\n"


def test_a_column_that_the_curve_lacks_counts_for_nothing(tmp_path: Path) -> None:
    rows = [line.split(",") for line in CURVE.read_text().splitlines()[:3]]
    (tmp_path / "ours.csv").write_text("\n".join(",".join(row[:9] + row[10:]) for row in rows) + "\n")
    assert compare(tmp_path / "ours.csv").stdout == "steps 50 to 100 of 2600: 2 of 2 rows equal to every digit\n"


def test_another_loss_is_measured(tmp_path: Path) -> None:
    header, *rows = (line.split(",") for line in CURVE.read_text().splitlines()[:4])
    losses = [float(row[4]) for row in rows]
    rows[1][4], rows[2][4] = f"{losses[1] + 0.3:.6g}", f"{losses[2] + 0.3:.6g}"
    (tmp_path / "ours.csv").write_text("\n".join(map(",".join, [header, *rows])) + "\n")
    printed = compare(tmp_path / "ours.csv").stdout.splitlines()
    assert printed[:2] == ["steps 50 to 150 of 2600: 1 of 3 rows equal to every digit", "the first that differs is that of step 100"]
    assert printed[2].startswith("loss: ") and printed[2].endswith("difference +0.2000 ± 0.1000")
    assert [line.split(":")[0] for line in printed[3:]] == ["box", "objectness", "mean_iou", "gradient_norm", "sign_flips"]
    assert all(line.endswith("difference +0.0000 ± 0.0000") for line in printed[3:])


def test_curves_without_a_common_step_are_refused(tmp_path: Path) -> None:
    (tmp_path / "ours.csv").write_text(CURVE.read_text().splitlines()[0] + "\n")
    refused = compare(tmp_path / "ours.csv")
    assert refused.returncode == 2 and "have no step in common" in refused.stderr
