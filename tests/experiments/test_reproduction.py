"""Tables as experiments, at the scale of seconds: each run once, killed and continued, reported from files."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from dupnet import paper
from dupnet.cli import main
from dupnet.data import wider
from dupnet.errors import DataError, DupnetError, SpecError
from dupnet.experiments import report, reproduction, runs
from dupnet.nn import checkpoint
from dupnet.training import recipe as recipes
from dupnet.training.loop import Run
from dupnet.training.recipe import Recipe
from dupnet.training.teacher import Teacher

ROWS = ["figure3/4x", "figure3/8x"]


def arguments(faces: Path, out: Path, *names: str) -> list[str]:
    how = ["--scale", "tiny", "--workers", "0", "--threads", "1", "--device", "cpu"]
    return ["reproduce", *names, "--wider", str(faces), "--out", str(out), *how]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoint.read(folder / "network.pt")["weights"]


def test_rows_that_are_one_run_are_planned_once(faces: Path, tmp_path: Path) -> None:
    study = reproduction.Study(("table4", "figure3", "table2"), reproduction.scale_of("tiny"), Run(faces, tmp_path))
    jobs = reproduction.plan(study, (1, 2))
    assert [job.recipe.seed for job in jobs] == [1] * (len(jobs) // 2) + [2] * (len(jobs) // 2)
    assert jobs[0].rows == ("table4/none", "figure3/1x", "table2/a2w1-1x")
    assert len({job.key for job in jobs}) == len(jobs) == 2 * (4 + 3 + 1 + 12)  # and IFQ-Tinier-YOLO, which a claim compares with
    same = {(job.recipe.spec.layers, job.recipe.network.activation, job.recipe.seed) for job in jobs}
    assert len(same) == len(jobs), "runs that differ in nothing but their names"
    pact = {row: reproduction.job_of(paper.row(row), study.scale, 1, faces).key for row in ("table6/dupnet", "table6/dupnet+pact")}
    assert len(set(pact.values())) == 2


def test_other_weights_to_start_from_are_another_run(faces: Path, tmp_path: Path) -> None:
    recipe = recipes.load("tiny")
    start = replace(recipe, start_from=str(tmp_path / "start.pt"))
    keys = [runs.keyed(recipe, faces)[0], runs.keyed(start, faces)[0]]
    for content in (b"one", b"two"):
        Path(start.start_from).write_bytes(content)
        keys.append(runs.keyed(start, faces)[0])
    assert len(set(keys)) == 4 and runs.keyed(start, faces)[0] == keys[-1]


@pytest.mark.parametrize("changed", ["labels", "photos"])
def test_another_val_is_other_scores(faces: Path, tmp_path: Path, changed: str) -> None:
    shutil.copytree(faces, tmp_path / "data")
    names = []
    for _ in range(2):
        runs._val_key.cache_clear()
        names.append(runs.wider_file(tmp_path, tmp_path / "data", 96))
        if changed == "labels":
            path = tmp_path / "data" / "wider_face_split" / "val_difficulty.json"
            path.write_text(path.read_text().replace('"hard": [0', '"hard": [1'))
        else:
            next(path for path in sorted((tmp_path / "data" / "WIDER_val").rglob("*")) if path.is_file()).unlink()
    assert names[0] != names[1]


def test_another_teacher_beside_the_photos_is_another_run(faces: Path, tmp_path: Path) -> None:
    shutil.copytree(faces, tmp_path / "data")
    recipe = replace(recipes.load("tiny"), teacher=Teacher("boxes"))
    keys = [runs.keyed(recipe, tmp_path / "data")[0]]
    (tmp_path / "data" / "boxes").mkdir()
    for name, content in (("a.txt", "a"), ("a.txt", "b"), ("c.txt", "b")):
        (tmp_path / "data" / "boxes" / name).write_text(content)
        keys.append(runs.keyed(recipe, tmp_path / "data")[0])
    (tmp_path / "data").rename(tmp_path / "moved")
    assert len(set(keys)) == 4 and runs.keyed(recipe, tmp_path / "moved")[0] == keys[-1]


@pytest.mark.parametrize("missing", ["WIDER_val", "difficulty", "marks"])
def test_what_measuring_needs_is_looked_for_before_training(faces: Path, tmp_path: Path, missing: str) -> None:
    data, report = tmp_path / "data", tmp_path / "notes.md"
    shutil.copytree(faces, data)
    if missing == "marks":
        report.write_text("my notes\n")
    elif missing == "difficulty":
        (data / "wider_face_split" / "val_difficulty.json").unlink()
    else:
        shutil.rmtree(data / missing)
    done = CliRunner().invoke(main, [*arguments(data, tmp_path / "out", "table6/dupnet"), "--report", str(report)])
    assert done.exit_code == 1 and not (tmp_path / "out").exists(), done.output


@pytest.mark.parametrize("table", ["table2", "table3", "table5", "table6", "figure4"])
def test_every_table_has_a_recipe_at_every_scale(table: str, faces: Path) -> None:
    for scale in reproduction.SCALES.values():
        for row in reproduction.rows_of([table]):
            job = reproduction.job_of(row, scale, 1, faces)
            assert job.recipe.network.activation == row.activation and not job.recipe.network.spread_copies
    with pytest.raises(SpecError, match="no table 'table7' to reproduce; there are table1, .*, eresfd-backbone, all, and single rows"):
        reproduction.rows_of(["table7"])


def test_killed_twice_and_continued_equals_never_killed(faces: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, arguments(faces, tmp_path / "whole", *ROWS), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "dupnet", *arguments(faces, tmp_path / "killed", *ROWS)]
    folders = sorted((tmp_path / "whole" / "tiny").iterdir(), key=lambda folder: folder.stat().st_mtime)
    for folder in folders:  # in the middle of the first run, then in the middle of the second
        victim = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL, env=environment)
        saved, until = tmp_path / "killed" / "tiny" / folder.name / "checkpoint.pt", time.time() + 120
        while not saved.exists() and victim.poll() is None and time.time() < until:
            time.sleep(0.01)
        os.killpg(victim.pid, signal.SIGKILL)
        assert victim.wait() == -signal.SIGKILL, "it was to be killed at work"
    last = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
    assert last.returncode == 0 and "1 of them finished before" in last.stderr and "goes on" in last.stderr, last.stderr
    for folder in folders:
        other = tmp_path / "killed" / "tiny" / folder.name
        ours, theirs = weights(folder), weights(other)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours) and not (other / "checkpoint.pt").exists()
        assert sorted(path.name for path in folder.glob("*.json")) == sorted(path.name for path in other.glob("*.json"))
        for scores in folder.glob("wider*.json"):
            assert scores.read_bytes() == (other / scores.name).read_bytes()

    texts = [(tmp_path / name / "tiny.md").read_text() for name in ("whole", "killed")]
    tables = [[line for line in text.splitlines() if line.startswith("|")] for text in texts]
    assert tables[0] == tables[1]
    assert sum("`tinier-yolo-half:conv6-8.weight_copies=8` | 28.2, - " in line and "| 1 |" in line for line in tables[0]) == 1
    assert any("8 weight copies cost accuracy | +0.025 |" in line and "no row was run with two seeds" in line for line in tables[0])
    assert any("`1x`" in line and "not run" in line for line in tables[0])

    stamp = (tmp_path / "whole" / "tiny" / folders[0].name / "network.pt").stat().st_mtime_ns
    again = CliRunner().invoke(main, [*arguments(faces, tmp_path / "whole", *ROWS), "--report-only"], catch_exceptions=False)
    assert again.exit_code == 0 and (tmp_path / "whole" / "tiny" / folders[0].name / "network.pt").stat().st_mtime_ns == stamp


def test_on_fddb_the_papers_measure_decides(faces: Path, tmp_path: Path) -> None:
    samples, images = wider.split(faces, "val")
    root = tmp_path / "fddb"
    for folder in ("originalPics", "FDDB-folds"):
        (root / folder).mkdir(parents=True)
    for fold in range(1, 11):  # a photo each
        sample = samples[fold % len(samples)]
        Image.open(images / sample.photo).save(root / "originalPics" / f"{fold}.jpg")
        half, middle = (sample.boxes[:, 2:] - sample.boxes[:, :2]) / 2, (sample.boxes[:, 2:] + sample.boxes[:, :2]) / 2
        rows = [f"{h} {w} 1.5707963 {x} {y} 1" for (w, h), (x, y) in zip(half, middle)]
        (root / "FDDB-folds" / f"FDDB-fold-{fold:02}-ellipseList.txt").write_text("\n".join([str(fold), str(len(rows)), *rows]) + "\n")
    command = [*arguments(faces, tmp_path / "out", "table6/dupnet"), "--fddb", str(root)]
    done = CliRunner().invoke(main, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    (path,) = (tmp_path / "out").rglob("fddb-96-*.json")
    scores = json.loads(path.read_text())
    assert 0 <= scores["fddb_continuous"] <= 1 and 0 <= scores["fddb"] <= 1 and scores["fddb_photos"] == 10
    text = (tmp_path / "out" / "tiny.md").read_text()
    assert "- Ours: detection rate on FDDB at 284 false positives" in text and f"| 0.859 | {scores['fddb']:.3f} |" in text


def test_a_run_that_diverges_does_not_stop_the_others(faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = runs.train

    def diverge(recipe: Recipe, run: Run, *, progress: bool = False) -> None:
        if recipe.spec.layers[5].weight_copies == 4:
            raise DupnetError("the loss became nan near step 50")
        train(recipe, run, progress=progress)

    monkeypatch.setattr(runs, "train", diverge)
    done = CliRunner().invoke(main, arguments(faces, tmp_path / "out", *ROWS))
    assert done.exit_code == 1 and "1 of 2 runs failed: figure3/4x, seed 1 (the loss became nan near step 50)" in done.output
    assert "[2/2] figure3/8x" in done.output and len(list((tmp_path / "out").rglob("run.json"))) == 1


def test_all_verdicts_stand_in_one_place(faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = {"none": (0.10, 0.12), "conv2-3": (0.50, 0.52), "conv1-3": (0.49, 0.51)}  # nothing of Conv9: not run
    run = {"seconds": 60.0, "machine": {"device": "a processor", "torch": "2"}}
    found = {
        f"table4/{row}": [
            {"ap_all": value, "dr": value, "photos": 3, "seed": n, "key": f"{row}{n}", "run": run} for n, value in enumerate(values)
        ]
        for row, values in scores.items()
    }
    monkeypatch.setattr(report, "results", lambda study, rows: found)
    text = report.text(reproduction.Study(("table4",), reproduction.scale_of("tiny"), Run(faces, tmp_path)))
    assert "- **Holds**, 1 of 3 claims. Table 4: Duplicating the maps of Conv2 and Conv3 helps.\n" in text
    assert "- **Does not hold**, 0 of 3 claims.\n" in text
    assert "- **The spread cannot tell**, 1 of 3 claims. Table 4: Those of Conv1 too help more.\n" in text
    assert "- **Not run**, 1 of 3 claims. Table 4: Those of Conv9 too help more.\n" in text
    assert "- **Not asked for**: Table 1, Table 2, Table 3, Table 5, Table 6, Figure 3, Figure 4.\n" in text
    # s = 0.02 / sqrt(2) with 3 degrees of freedom; Student's factor 3.18; two seeds against two: 3.18 s
    assert "0.0141 (3 degrees of freedom). Two rows of 2 seeds each can be told apart where they differ by more than 0.045." in text
    assert "`dr`: detection rate of the medium faces at 0.1 false positives a photo." in text


def test_a_report_is_written_between_its_marks_only(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.write(path, "new")
    assert path.read_text() == f"before\n{report.BEGIN}\n\nnew\n{report.END}\nafter\n"
    path.write_text("something else")
    with pytest.raises(DataError, match="has no lines"):
        report.write(path, "new")


def test_what_is_missing_is_said_before_training(tiny_wider: Path, tmp_path: Path) -> None:
    failed = CliRunner().invoke(main, arguments(tmp_path, tmp_path / "out", "table4"))
    assert failed.exit_code == 1 and "wider_face_train_bbx_gt.txt" in failed.output
    wrong = CliRunner().invoke(main, [*arguments(tiny_wider, tmp_path / "out", "table4"), "--fddb", str(tmp_path)])
    assert wrong.exit_code == 1 and "FDDB" in wrong.output and not (tmp_path / "out").exists()


def test_two_processes_do_not_share_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "CLAIM_SECONDS", 0.0)
    code = "import sys, time; from pathlib import Path; from dupnet.experiments import runs\n"
    code += f"with runs.claimed(Path({str(tmp_path)!r})) as mine: print(mine, flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None and other.stdout.readline() == "True\n"
        with runs.claimed(tmp_path) as mine:
            assert not mine
    finally:
        other.kill()
        other.wait()
    with runs.claimed(tmp_path) as mine:
        assert mine

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.lockf", no_locks)  # some file systems have none: nobody else is at work there
    with pytest.raises(OSError, match="No locks"), runs.claimed(tmp_path):
        pass


def test_eresfds_backbones_are_compared_at_equal_size(faces: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, arguments(faces, tmp_path, "eresfd-backbone"))
    assert result.exit_code == 0, result.output
    text = (tmp_path / "tiny.md").read_text()
    table = {line.split("|")[1].strip(): line.split("|") for line in text.splitlines() if line.startswith("| `")}
    assert (table["`standard`"][2].strip(), table["`separable`"][2].strip()) == ("92,208", "91,750")
    assert all(cells[-2].strip() == "1" and float(cells[4]) > 0 for cells in table.values())
    assert "| Plain convolutions beat depthwise-separable ones of equal size |" in text
    again = CliRunner().invoke(main, arguments(faces, tmp_path, "eresfd-backbone"))
    assert "2 runs, 2 of them finished before" in again.output
