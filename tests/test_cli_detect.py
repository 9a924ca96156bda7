"""`dupnet detect`, `evaluate` and `inspect` as a user calls them, on a small random model."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from random_models import small_model

from dupnet import cli, packed, runtime
from dupnet.data import wider
from dupnet.runtime import DEFAULT_IOU, Detector


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "small.dnet"
    packed.save(small_model(), path)
    return path


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a.png, more/b.jpg and more/deep/a.webp."""
    rng = np.random.default_rng(2)
    for name in ("a.png", "more/b.jpg", "more/deep/a.webp"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (60, 80, 3), np.uint8)).save(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def dupnet(*words: str | Path) -> Result:
    result = CliRunner().invoke(cli.main, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_plain_lines(photos: Path, model: Path) -> None:
    faces = Detector(model).detect("a.png")
    result = dupnet("detect", "a.png", "--model", model)
    assert len(faces) > 1 and result.exit_code == 0 and result.stderr == ""
    (x1, y1, x2, y2), score = faces[0]
    assert result.stdout.splitlines()[0] == f"a.png  {x1:.1f} {y1:.1f} {x2:.1f} {y2:.1f}  {score:.3f}"
    assert len(result.stdout.splitlines()) == len(faces)


def test_json_lines(photos: Path, model: Path) -> None:
    result = dupnet("detect", "a.png", "more", "--json", "--model", model)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 0 and [line["photo"] for line in lines] == ["a.png", "more/b.jpg", "more/deep/a.webp"]
    assert lines[1]["faces"] == Detector(model).detect("more/b.jpg").to_list()


def test_csv(photos: Path, model: Path) -> None:
    Path("a.png").rename('comma, "quote".png')
    rows = list(csv.DictReader(dupnet("detect", ".", "--csv", "--model", model).stdout.splitlines()))
    assert {row["photo"] for row in rows} == {'comma, "quote".png', "more/b.jpg", "more/deep/a.webp"}
    assert list(rows[0]) == ["photo", "x1", "y1", "x2", "y2", "score"]


def test_options_reach_the_detector(photos: Path, model: Path) -> None:
    options = {"size": 48, "score": 0.1, "iou": 0.9}
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    result = dupnet("detect", "a.png", "--json", "--model", model, "--threads", "2", *words)
    assert json.loads(result.stdout)["faces"] == Detector(model).detect("a.png", **options).to_list()


def test_no_face_is_no_failure(photos: Path, model: Path) -> None:
    result = dupnet("detect", "a.png", "--score", "1", "--model", model)
    assert result.exit_code == 0 and result.stdout == "" and result.stderr == "a.png: no face\n"
    result = dupnet("detect", "a.png", "--score", "1", "--json", "--model", model)
    assert result.exit_code == 0 and json.loads(result.stdout) == {"photo": "a.png", "faces": []} and result.stderr == ""
    result = dupnet("detect", "a.png", "--score", "1", "--csv", "--model", model)
    assert result.exit_code == 0 and result.stdout == "photo,x1,y1,x2,y2,score\n" and result.stderr == ""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_the_progress_bar_tears_no_line(photos: Path, model: Path) -> None:
    import pty
    import termios

    Path("bad.png").write_bytes(b"not a photo")
    master, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 100))
    command = [sys.executable, "-m", "dupnet", "detect", "a.png", "bad.png", "more", "--score", "0.9", "--model", str(model)]
    with subprocess.Popen(command, stdout=terminal, stderr=terminal) as process:
        os.close(terminal)
        text = b""
        try:
            while part := os.read(master, 65536):
                text += part
        except OSError:  # how Linux tells that the other side is closed
            pass
    os.close(master)
    assert process.returncode == 1 and b"0/4" in text and b"4/4" in text
    shown = [visible(line) for line in text.decode().replace("\r\n", "\n").split("\n")]
    plain = dupnet(*command[3:])
    expected = plain.stdout.splitlines() + plain.stderr.splitlines()
    assert len(expected) > 3 and sorted(line for line in shown if line and "%|" not in line) == sorted(expected)


def visible(line: str) -> str:
    """What a terminal shows of a line that goes back to its start and is written over."""
    cells: list[str] = []
    for part in line.split("\r"):
        cells[: len(part)] = part
    return "".join(cells).rstrip()


def test_one_bad_photo_stops_no_other(photos: Path, model: Path) -> None:
    Path("bad.png").write_bytes(b"not a photo")
    Path("nothing").mkdir()
    result = dupnet("detect", "bad.png", "gone.png", "nothing", "a.png", "--json", "--model", model)
    assert result.exit_code == 1 and json.loads(result.stdout)["photo"] == "a.png"
    errors = sorted(result.stderr.splitlines())
    assert [line.split(":")[2] for line in errors] == [" bad.png", " gone.png", " nothing"]
    assert all(line.startswith("dupnet: error: ") for line in errors)


def test_a_photo_that_takes_too_much_memory_stops_no_other(photos: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, turns = Detector.detect, iter([True, False])

    def detect(*photo: object, **options: object) -> object:
        if next(turns):
            raise MemoryError
        return whole(*photo, **options)

    monkeypatch.setattr(Detector, "detect", detect)
    result = dupnet("detect", "more/b.jpg", "a.png", "--json", "--model", model)
    assert result.exit_code == 1 and "more/b.jpg: needs more memory than is free" in result.stderr
    assert json.loads(result.stdout)["photo"] == "a.png"


def test_names_that_the_terminal_cannot_show(photos: Path, model: Path) -> None:
    Path("a.png").rename("日本.png")
    command = [sys.executable, "-m", "dupnet", "detect", "日本.png", "--score", "0.0", "--csv"]
    done = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "latin-1"})
    assert done.returncode == 0 and b"\\u65e5\\u672c.png," in done.stdout, done.stderr


def test_draw_one_photo_into_a_file(photos: Path, model: Path) -> None:
    assert dupnet("detect", "a.png", "--draw", "new/out.jpg", "--model", model).exit_code == 0
    with Image.open("new/out.jpg") as drawn:
        assert drawn.size == (80, 60)
    Path("folder").mkdir()
    assert dupnet("detect", "more/deep/a.webp", "--draw", "folder", "--model", model).exit_code == 0
    assert Path("folder/a.webp.png").exists()


def test_a_drawing_that_cannot_be_written_stops_no_other(photos: Path, model: Path) -> None:
    Path("out").mkdir()
    Path("out/deep").write_text("a file where a folder is needed")
    result = dupnet("detect", "more", "a.png", "--draw", "out", "--json", "--model", model)
    assert result.exit_code == 1 and sorted(path.name for path in Path("out").iterdir()) == ["a.png", "b.jpg", "deep"]
    assert [json.loads(line)["photo"] for line in result.stdout.splitlines()] == ["more/b.jpg", "a.png"]
    assert result.stderr == "dupnet: error: out/deep/a.webp.png: cannot be written: File exists\n"


def test_draw_many_photos_into_a_folder(photos: Path, model: Path) -> None:
    assert dupnet("detect", "a.png", "more", "--draw", "out", "--model", model).exit_code == 0
    assert sorted(path.relative_to("out").as_posix() for path in Path("out").rglob("*.*")) == ["a.png", "b.jpg", "deep/a.webp.png"]


def test_what_was_drawn_into_a_folder_is_no_photo_of_it(photos: Path, model: Path) -> None:
    for _ in range(2):
        result = dupnet("detect", ".", "--draw", "drawn", "--json", "--model", model)
        assert result.exit_code == 0 and "drawn" not in result.stdout
    assert "drawn/a.png" in dupnet("detect", "drawn", "--draw", "again", "--json", "--model", model).stdout


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([""], "a photo's name is empty"),
        (["a.png", "--json", "--csv"], "give one of them"),
        (["a.png", "--draw", "out.txt"], "ends in .png"),
        (["a.png", "--draw", "a.png"], "would overwrite the photo a.png"),
        (["a.png", "more", "--draw", "."], "would overwrite the photo a.png"),
        (["more", "more/b.jpg", "--draw", "out"], "two photos would be drawn into out/b.jpg"),
        (["a.png", "more", "--draw", "a.png"], "this is a folder, not a file"),
        (["a.png", "more", "--draw", "new.png"], "this is a folder, not a file"),
        (["a.png", "--size", "31"], "--size"),
        (["a.png", "--size", "320", "--sizes", "320,640"], "give --size or --sizes"),
        (["a.png", "--score", "1.5"], "--score"),
        (["a.png", "--score", "nan"], "--score"),
        (["a.png", "--iou", "nan"], "--iou"),
        (["a.png", "--threads", "0"], "--threads"),
        ([], "PHOTO"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_wrong_calls(photos: Path, model: Path, words: list[str], reason: str) -> None:
    before = Path("a.png").read_bytes()
    result = dupnet("detect", *words, "--model", model)
    assert result.exit_code == 2 and reason in result.stderr and result.stdout == ""
    assert Path("a.png").read_bytes() == before


def test_models_that_cannot_be_used(photos: Path) -> None:
    Path("bad.dnet").write_bytes(b"DNET")
    for words in (
        ["detect", "a.png", "--model", "bad.dnet"],
        ["detect", "a.png", "--model", "gone.dnet"],
        ["detect", "a.png", "--model", "gone"],
    ):
        result = dupnet(*words)
        assert result.exit_code == 1 and result.stdout == "" and result.stderr.count("\n") == 1
        assert result.stderr.startswith("dupnet: error: ") and words[-1] in result.stderr


def test_not_a_number_is_refused_everywhere(tiny_wider: Path, model: Path, tmp_path: Path) -> None:
    for words in (
        ["evaluate", model, "--wider", tiny_wider, "--score", "nan"],
        ["evaluate", model, "--wider", tiny_wider, "--iou", "nan"],
        ["convert", "gone.pt", "-o", tmp_path / "out.dnet", "--score", "nan"],
        ["search", "--weights-kb", "37", "--macs", "nan"],
        ["search", "--weights-kb", "inf"],
        ["bench", "--seconds", "nan"],
        ["bench", "--peer", "foo"],
    ):
        result = dupnet(*words)
        assert result.exit_code == 2 and str(words[-2]) in result.stderr


def test_the_default_iou_is_the_detectors(photos: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual, all_boxes = (Detector(model).detect("a.png", score=0.1, iou=iou) for iou in (DEFAULT_IOU, 1.0))
    monkeypatch.setattr(runtime, "DEFAULT_IOU", 1.0)
    result = dupnet("detect", "a.png", "--score", "0.1", "--json", "--model", model)
    assert json.loads(result.stdout)["faces"] == all_boxes.to_list() and len(all_boxes) > len(usual)


@pytest.mark.parametrize("verb", ["detect", "evaluate"])
def test_help_tells_the_detectors_own_iou(verb: str) -> None:
    assert f"[default: {DEFAULT_IOU}; EResFD: 0.3]" in " ".join(dupnet(verb, "--help").stdout.split())


def test_evaluate(tiny_wider: Path, tmp_path: Path, model: Path) -> None:
    root = Path(shutil.copytree(tiny_wider, tmp_path / "wider"))
    samples, _ = wider.split(root, "val")
    subsets = {one.photo: {"easy": [], "medium": [0], "hard": [0]} for one in samples}
    (root / "wider_face_split" / "val_difficulty.json").write_text(json.dumps(subsets))
    result = dupnet("evaluate", model, "--wider", root, "--size", "64", "--json")
    report = json.loads(result.stdout)
    assert {"ap_easy", "ap_medium", "ap_hard", "ap_all", "dr", "photos", "size", "model", "seconds"} <= set(report)
    assert (
        report["iou"] == DEFAULT_IOU
        and report["photos"] == 8
        and report["size"] == 64
        and report["ap_easy"] is None
        and 0 <= report["ap_all"] <= 1
    )
    assert "AP medium" in dupnet("evaluate", model, "--wider", root).stdout
    failed = dupnet("evaluate", model, "--wider", tmp_path)
    assert failed.exit_code == 1 and "not a WIDER FACE folder" in failed.stderr


def test_inspect(model: Path) -> None:
    report = json.loads(dupnet("inspect", model, "--json").stdout)
    expected = small_model()
    assert report["name"] == expected.name and report["file_bytes"] == model.stat().st_size and report["default_size_px"] == 64
    assert [stage["filters"] for stage in report["stages"]] == [stage.filters for stage in expected.stages]
    assert report["stages"][0]["weight_bytes"] == 5 * -(-3 * 3 * 2 // 8) and report["stages"][-1]["threshold_bytes"] == 0
    plain = dupnet("inspect", model).stdout
    assert f"{model.stat().st_size:,} bytes" in plain and len(plain.splitlines()) == 8 + len(expected.stages)


def test_help_names_every_verb_and_every_verb_has_help() -> None:
    overview = dupnet("--help").stdout
    for verb, about in cli.VERBS.items():
        assert f"{verb} " in overview and about in overview
        assert dupnet(verb, "--help").exit_code == 0
    assert dupnet("--version").stdout.startswith("dupnet, version ")
    assert dupnet("nonsense").exit_code == 2


@pytest.mark.parametrize("words", [["--help"], ["detect", "a.png", "--model", "MODEL"]])
def test_no_verb_pays_for_another(photos: Path, model: Path, words: list[str]) -> None:
    words = [str(model) if word == "MODEL" else word for word in words]
    code = "import sys\nfrom dupnet.cli import main\ntry:\n    main()\nfinally:\n    print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 0
    assert not {"torch", "scipy", "dupnet.nn", "dupnet.training", "dupnet.evaluation", "dupnet.cli.train"} & set(done.stderr.split())


def test_the_bundled_model_needs_no_option(photos: Path) -> None:
    assert dupnet("detect", "a.png").exit_code == 0


def test_kernels_that_do_not_exist_are_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUPNET_KERNELS", "abacus")
    result = CliRunner().invoke(cli.main, ["detect", "examples/astronaut.jpg"])
    assert result.exit_code == 1 and "DUPNET_KERNELS=abacus: no kernels abacus run here; this build has portable" in result.output
    for words in (["bench", "--size", "64x64"], ["inspect", "dupnet-tinier-yolo", "--memory"]):
        result = CliRunner().invoke(cli.main, words)
        assert result.exit_code == 1 and result.output.count("\n") == 1 and "DUPNET_KERNELS=abacus" in result.output
    monkeypatch.setenv("DUPNET_KERNELS", "portable,")
    result = CliRunner().invoke(cli.main, ["detect", "examples/astronaut.jpg"])
    assert result.exit_code == 1 and "kernels are one name, or a list of those to avoid" in result.output


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_one_line(photos: Path) -> None:
    command = [sys.executable, "-m", "dupnet", "detect", "a.png", "--score", "0.01", "--json"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode != 0 and "dupnet: error: the output: No space left on device" in done.stderr and "Traceback" not in done.stderr
