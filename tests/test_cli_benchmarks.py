"""`dupnet evaluate` on both benchmarks, and that the files it leaves score as it did."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import dupnet
from dupnet.cli import main

ROOT = Path(__file__).resolve().parents[1]


def dupnet_json(*words: object) -> list[dict[str, object]]:
    done = CliRunner().invoke(main, [*map(str, words), "--json"])
    assert done.exit_code == 0, done.output
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def astronauts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FDDB's folders with the same photo twenty times, half of them mirrored; the face is labelled where it is found."""
    root = tmp_path_factory.mktemp("fddb")
    (root / "FDDB-folds").mkdir()
    photo = Image.open(ROOT / "examples" / "astronaut.jpg").convert("RGB").resize((240, 240))
    photo.save(root / "plain.png")
    for fold in range(1, 11):
        lines = []
        for name, picture in (
            (f"2002/big/img_{fold}0", photo),
            (f"2002/big/img_{fold}1", photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
        ):
            path = root / "originalPics" / f"{name}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path, quality=95)
            x1, y1, x2, y2 = dupnet.Detector().detect(picture, size=240)[0].box.tolist()
            lines += [name, "1", f"{(y2 - y1) / 2} {(x2 - x1) / 2} 1.5708 {(x1 + x2) / 2} {(y1 + y2) / 2}  1"]
        (root / "FDDB-folds" / f"FDDB-fold-{fold:02d}-ellipseList.txt").write_text("\n".join(lines) + "\n")
    return root


def test_fddb_from_photos_to_curves_and_back(astronauts: Path, tmp_path: Path) -> None:
    out, report = tmp_path / "out", tmp_path / "report.html"
    settings = ["--fddb", astronauts, "--size", 240]
    [model] = dupnet_json("evaluate", "dupnet-tinier-yolo", *settings, "--predictions", out)
    assert model["photos"] == model["faces"] == 20
    rates = model["rates"]
    assert [rate["false_positives"] for rate in rates] == [284, 2]  # type: ignore[attr-defined]
    assert rates[0]["discrete"] == 1 and 0.6 < rates[0]["continuous"] < 0.9  # type: ignore[index]

    [files] = dupnet_json("fddb-score", out, "--annotations", astronauts, "--out", tmp_path / "curves")
    assert files["rates"] == rates and files["all_false_positives"] == model["all_false_positives"]
    for name in ("DiscROC.txt", "ContROC.txt"):
        assert (tmp_path / "curves" / name).read_text() == (out / name).read_text() != ""

    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    both = dupnet_json("evaluate", "dupnet-tinier-yolo", *settings, "--detections", f"the files={out}", "--report", report)
    assert [one["rates"] for one in both] == [rates, rates]
    page = report.read_text()
    assert "Face detection on FDDB, 20 photos" in page and "Discrete rate at 284 false positives" in page

    done = CliRunner().invoke(main, ["fddb-score", str(out), "--annotations", str(astronauts), "--false-positives", "1.5"])
    assert done.output.splitlines()[1].startswith("FDDB: 20 photos in ten folds, 20 faces")
    assert [line.split()[0] for line in done.output.splitlines()[4:]] == ["284", "2", "1.5"]


def test_a_page_about_eresfd(astronauts: Path, tmp_path: Path) -> None:
    """It has no quantizable layers, so the page says nothing of their cost."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    from dupnet.nn import checkpoint
    from dupnet.nn.eresfd import EResFD
    from dupnet.spec import EResFDSpec

    torch.manual_seed(0)
    checkpoint.save(EResFD(EResFDSpec(4)), tmp_path / "small.pt")
    command = ["evaluate", str(tmp_path / "small.pt"), "--fddb", str(astronauts), "--size", "64", "--report", str(tmp_path / "page.html")]
    done = CliRunner().invoke(main, command, catch_exceptions=False)
    assert done.exit_code == 0 and "Face detection on FDDB" in (tmp_path / "page.html").read_text()


def test_wider_from_photos_to_files_and_back(tiny_wider: Path, tmp_path: Path) -> None:
    table = {f"0--Discs/{n}.png": dict.fromkeys(("easy", "medium", "hard"), [0]) for n in range(8)}
    root = tmp_path / "wider"
    (root / "WIDER_val").mkdir(parents=True)
    (root / "WIDER_val" / "images").symlink_to(tiny_wider / "WIDER_val" / "images")
    (root / "wider_face_split").mkdir()
    text = (tiny_wider / "wider_face_split" / "wider_face_val_bbx_gt.txt").read_text()
    (root / "wider_face_split" / "wider_face_val_bbx_gt.txt").write_text(text + "0--Discs/elsewhere.png\n0\n0 0 0 0 0 0 0 0 0 0\n")
    (root / "wider_face_split" / "val_difficulty.json").write_text(json.dumps(table))
    arguments = ["evaluate", "dupnet-tinier-yolo", "--wider", root, "--size", 128, "--score", 0]
    [model] = dupnet_json(*arguments, "--predictions", tmp_path / "tree")
    assert (model["photos"], model["listed"]) == (8, 9)
    assert len(list((tmp_path / "tree" / "0--Discs").glob("*.txt"))) == 8
    [files] = dupnet_json("wider-score", tmp_path / "tree", "--wider", root, "--subset")
    numbers = ("ap_easy", "ap_medium", "ap_hard", "ap_all", "dr", "photos", "listed")
    assert [files[key] for key in numbers] == [model[key] for key in numbers] and model["ap_all"] > 0  # type: ignore[operator]
    done = CliRunner().invoke(main, list(map(str, arguments)))
    assert f"8 of the 9 photos of {root} (val)" in done.output


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["m"], "give one data set: --wider DIR or --fddb DIR"),
        (["m", "--wider", ".", "--fddb", "."], "give one data set"),
        (["a", "b", "--fddb", ".", "--predictions", "x"], "--predictions needs one MODEL, not 2"),
        (["dupnet-tinier-yolo", "dupnet-tinier-yolo", "--fddb", "."], "is given twice"),
        (["dupnet-tinier-yolo", "--fddb", ".", "--split", "val"], "--split is for --wider"),
        (["--fddb", ".", "--detections", "x=nowhere"], "expected NAME=PATH with a PATH that exists"),
    ],
)
def test_wrong_calls_are_told(words: list[str], reason: str) -> None:
    done = CliRunner().invoke(main, ["evaluate", *words])
    assert done.exit_code == 2 and reason in " ".join(done.output.split())


@pytest.mark.parametrize("written", [".", "tree", "tree/deeper"])
def test_boxes_are_not_written_where_others_are_read(tmp_path: Path, tiny_wider: Path, written: str) -> None:
    (tmp_path / "tree").mkdir()
    words = ["evaluate", "dupnet-tinier-yolo", "--wider", str(tiny_wider), "--detections", f"others={tmp_path / 'tree'}"]
    done = CliRunner().invoke(main, [*words, "--predictions", str(tmp_path / written)])
    assert done.exit_code == 2 and "would write where --detections reads" in " ".join(done.output.split())
    assert [path.name for path in tmp_path.rglob("*")] == ["tree"]


def test_a_report_takes_no_other_files_place(tmp_path: Path, tiny_wider: Path) -> None:
    mine = tmp_path / "mine.dnet"
    mine.write_bytes(b"mine")
    done = CliRunner().invoke(main, ["evaluate", "dupnet-tinier-yolo", "--wider", str(tiny_wider), "--report", str(mine)])
    assert done.exit_code == 1 and "its name ends in .html" in done.output and mine.read_bytes() == b"mine"


def test_an_fddb_outcome_agrees_with_its_curve() -> None:
    from dupnet.data.fddb import FddbPhoto
    from dupnet.evaluation import fddb

    rng = np.random.default_rng(3)
    photos, found = [], []
    for number in range(30):
        ellipses = np.concatenate([rng.uniform(8, 25, (2, 2)), rng.uniform(-1.5, 1.5, (2, 1)), rng.uniform(20, 90, (2, 2))], axis=1)
        boxes = fddb._around(ellipses)
        near = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1) * rng.normal(1, 0.1, (2, 4))
        far = rng.uniform(5, 60, (1, 4))
        photos.append(FddbPhoto(f"p/{number}", 1, ellipses))
        found.append(np.concatenate([np.concatenate([near, far]), rng.random((3, 1))], axis=1))
    sizes = [(120, 130)] * len(photos)
    outcome, scores = fddb.outcome("d", photos, sizes, found), fddb.score(photos, sizes, found)
    assert outcome.curve.best(5)[0] == scores.discrete_rate(5) and outcome.curves[1].best(5)[0] == scores.continuous_rate(5)
    hits = sum(int((photo.found_at > -np.inf).sum()) for photo in outcome.photos)
    assert 20 < hits and abs(hits - scores.true_positives[0]) <= 1, "a face may lose its detection to a neighbour again"
    assert sum(int(photo.false_alarms.sum()) for photo in outcome.photos) == pytest.approx(scores.false_positives[0], abs=1)
    whole_turn = fddb._around(np.array([[3.0, 2, 0, 10, 10], [3, 2, np.pi / 2, 10, 10]]))
    assert whole_turn == pytest.approx(np.array([[7.0, 8, 13, 12], [8, 7, 12, 13]]))
