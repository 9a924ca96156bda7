"""The report page and the plots: what they hold, in whose words, and that they are whole, alone and the same every time."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from dupnet import cost, image, integer, packed, zoo
from dupnet.cli import main
from dupnet.data import wider as annotations
from dupnet.detections import Detections
from dupnet.errors import DataError
from dupnet.evaluation import plots, predictions, report, wider
from dupnet.evaluation.outcome import Outcome

HOSTILE = "<script>alert('x')</script>&\"$x^2$"
"""A name for a detector, and, with a suffix, for a file."""


class Page(HTMLParser):
    """Every element that opens must close; what the tests ask for is collected."""

    VOID = {"meta", "image", "rect", "path", "use", "br", "link", "img"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.attributes if key == name]


@pytest.fixture
def faces(tiny_wider: Path, tmp_path: Path) -> Path:
    """Eight drawn photos, one of them with a name that attacks a page, and their difficulty."""
    root = Path(shutil.copytree(tiny_wider, tmp_path / "faces"))
    name = HOSTILE.replace("/", "") + ".png"
    (root / "WIDER_val/images/0--Discs/2.png").rename(root / "WIDER_val/images/0--Discs" / name)
    lists = root / "wider_face_split/wider_face_val_bbx_gt.txt"
    lists.write_text(lists.read_text().replace("0--Discs/2.png", f"0--Discs/{name}"))
    table = {one.photo: {level: np.flatnonzero(~one.ignore).tolist() for level in wider.LEVELS} for one in annotations.read(lists)}
    (root / "wider_face_split/val_difficulty.json").write_text(json.dumps(table))
    return root


def boxes_of(root: Path, seed: int) -> list[Detections]:
    """For every photo a good box on the first face, a poor one on the second, and one where nothing is."""
    rng = np.random.default_rng(seed)
    samples, _ = annotations.split(root, "val")
    good, poor, wrong = (rng.uniform(*span, 8).round(3) for span in ((0.5, 1), (0.2, 0.6), (0, 0.7)))
    corner = [[0.0, 80, 16, 96]]
    return [
        Detections(np.concatenate([s.boxes[:1], s.boxes[1:2] + 4, corner]), [a, b, c]) for s, a, b, c in zip(samples, good, poor, wrong)
    ]


def outcome_of(root: Path, name: str, seed: int) -> Outcome:
    samples, _ = annotations.split(root, "val")
    return wider.outcome(name, samples, wider.read_difficulty(root), boxes_of(root, seed))


def page_of(root: Path, *outcomes: Outcome, date: str = "today") -> str:
    model = zoo.get("dupnet-tinier-yolo")
    entries = [report.Entry(outcome, {"Model": HOSTILE}) for outcome in outcomes]
    entries[0] = replace(entries[0], cost=cost.count(model, (480, 640)), file_bytes=43560)
    return report.render(
        entries, root / "WIDER_val/images", title=HOSTILE, about={"Photos": "8", "Command": f"dupnet evaluate {HOSTILE}"}, date=date
    )


def test_the_page_is_whole_and_asks_for_nothing(faces: Path) -> None:
    text = page_of(faces, outcome_of(faces, "one", 0), outcome_of(faces, HOSTILE, 1))
    page = Page(text)
    links = page.values("href") + page.values("src") + page.values("xlink:href")
    assert links and all(link.startswith(("data:image/jpeg;base64,", "#")) for link in links)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags) and "http" not in text and "@import" not in text
    ids = page.values("id")
    assert len(ids) == len(set(ids)) and {link[1:] for link in links if link.startswith("#")} <= set(ids)
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(ids)


def test_names_are_text_wherever_they_stand(faces: Path) -> None:
    text = page_of(faces, outcome_of(faces, HOSTILE, 1))
    assert "<script" not in text and "&lt;script&gt;" in text
    page = Page(text)
    assert "script" not in page.tags and not [name for name, _ in page.attributes if name.startswith("on")]
    assert HOSTILE in page.text and HOSTILE.replace("/", "") + ".png" in page.text


def test_what_the_page_shows(faces: Path) -> None:
    outcomes = [outcome_of(faces, "one", 0), outcome_of(faces, "two", 1)]
    text = page_of(faces, *outcomes)
    page = Page(text)
    assert {"roc-1", "height", "pr-0", "pr-1", "pr-2", "pr-3"} <= set(page.values("id"))
    misses, alarms = (sum(len(find(one)) for one in outcomes) for find in (report.worst_misses, report.worst_false_alarms))
    thumbs = [value for value in page.values("aria-label") if value.startswith(("Missed face in", "False alarm in"))]
    assert len(thumbs) == page.values("class").count("thumb") == min(misses, 24) + min(alarms, 24) > 24
    assert {"h1", "h2", "h3", "table", "dl"} <= set(page.tags)
    assert "36.9" in page.text and "43,560" in page.text and "Conv9" in page.text
    for outcome in outcomes:
        assert f"{outcome.numbers['AP medium']:.3f}" in page.text


def test_equal_measurements_give_equal_pages_but_for_the_date(faces: Path) -> None:
    first, again = (page_of(faces, outcome_of(faces, "one", 0), date=date) for date in ("today", "tomorrow"))
    assert first != again and first.replace("<dd>today</dd>", "<dd>tomorrow</dd>") == again


def test_only_the_shown_photos_are_read(faces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, seen = image.read, []
    monkeypatch.setattr(image, "read", lambda path: seen.append(path) or read(path))
    monkeypatch.setattr(report, "THUMBNAILS", 2)
    page_of(faces, outcome_of(faces, "one", 0))
    assert len(seen) == 4


def test_the_worst_come_first(faces: Path) -> None:
    outcome = outcome_of(faces, "one", 0)
    missed = [outcome.photos[photo].faces[face] for photo, face in report.worst_misses(outcome)]
    heights = [y2 - y1 for _, y1, _, y2 in missed]
    assert len(heights) > 3 and heights == sorted(heights, reverse=True)
    assert all(outcome.photos[photo].found_at[face] < outcome.limit for photo, face in report.worst_misses(outcome))
    scores = [float(outcome.photos[photo].found.scores[box]) for photo, box in report.worst_false_alarms(outcome)]
    assert scores == sorted(scores, reverse=True) and len(scores) == sum(int(p.false_alarms.sum()) for p in outcome.photos)


def one_photo(*found: tuple[list[float], float], name: str = "it") -> Outcome:
    one = annotations.Sample("p.png", np.array([[10.0, 10, 30, 30], [50, 10, 70, 30]]), np.zeros(2, bool))
    levels = {"p.png": {level: [0, 1] for level in wider.LEVELS}}
    return wider.outcome(name, [one], levels, [Detections([box for box, _ in found], [score for _, score in found])])


def data_photo(folder: Path) -> Path:
    """A folder with the one photo of `one_photo`."""
    Image.new("RGB", (90, 60), "gray").save(folder / "p.png")
    return folder


def test_the_words_of_a_thumbnail(tmp_path: Path) -> None:
    a, b, nowhere = [10.0, 10, 30, 30], [50.0, 10, 70, 30], [10.0, 35, 30, 55]
    it = one_photo((a, 0.9), (nowhere, 0.8), ([12.0, 10, 32, 30], 0.7), ([61.0, 10, 81, 30], 0.6))
    other = one_photo((b, 0.9), (nowhere, 0.7), name="other")
    page = Page(report.render([report.Entry(it), report.Entry(other)], data_photo(tmp_path), title="t", about={}, date="d")).text
    first = re.sub(r"\s+", " ", page[page.index("Missed faces") : page.index("Missed faces", page.index("Missed faces") + 1)])
    assert "1 of 2 medium faces are missed (threshold 0.900)." in first
    assert "face 20 px tall best box overlaps 0.290 found by other (0.90)" in first
    assert "score 0.800 20 px tall nothing labelled there below the threshold by no other" in first
    assert "score 0.700 20 px tall second box on a found face below the threshold" in first
    assert "score 0.600 20 px tall overlaps a label 0.290, needs 0.5 below the threshold" in first


def test_a_detector_without_an_operating_point(tmp_path: Path) -> None:
    data_photo(tmp_path)
    for outcome in (one_photo(([10.0, 35, 30, 55], 0.9)), one_photo()):
        page = Page(report.render([report.Entry(outcome)], tmp_path, title="t", about={}, date="d"))
        assert "No score threshold of it keeps false positives as few" in page.text and "2 of 2 medium faces are missed;" in page.text


@pytest.mark.parametrize(
    ("box", "part"),
    [
        ([0, 0, 20, 30], (0, 0, 90, 90)),
        ([380, 280, 400, 300], (336, 236, 64, 64)),
        ([200, 100, 202, 103], (169, 70, 64, 64)),
        ([0, 0, 400, 300], (0, 0, 400, 300)),
    ],
)
def test_thumbnails_stay_inside_the_photo(box: list[float], part: tuple[int, int, int, int]) -> None:
    uri, where = report.cut(np.zeros((300, 400, 3), np.uint8), np.array(box, float))
    assert where == part and uri.startswith("data:image/jpeg;base64,")


def test_plots_are_pictures_and_whole(faces: Path, tmp_path: Path) -> None:
    outcomes = [outcome_of(faces, "one", 0), outcome_of(faces, HOSTILE, 1)]
    for name in ("a.png", "a.svg"):
        plots.save(outcomes, tmp_path / name, title=HOSTILE)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.format == "PNG" and picture.width > 1000
    svg = (tmp_path / "a.svg").read_text()
    assert "false positives per photo" in svg and "precision" in svg and "&lt;script&gt;" in svg and "<script" not in svg
    plots.save(outcomes, tmp_path / "again.svg", title=HOSTILE)
    assert (tmp_path / "again.svg").read_text() == svg
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a.svg", "again.svg", "faces"]
    with pytest.raises(DataError, match=r"x.pdf: the name of a plot must end in one of .png .svg"):
        plots.save(outcomes, tmp_path / "x.pdf")
    with pytest.raises(DataError, match="cannot be written"):
        plots.save(outcomes, tmp_path / "nowhere" / "x.svg")
    with pytest.raises(DataError, match="8 detectors can be told apart in one plot, not 9"):
        plots.save([replace(outcomes[0], detector=str(n)) for n in range(9)], tmp_path / "x.svg")


def test_rates_by_height_count_every_valid_face(faces: Path) -> None:
    outcome = outcome_of(faces, "one", 0)
    heights, found = plots.heights_found(outcome)
    edges = plots.height_edges(heights)
    total, rate = plots.rate_by_height(outcome, edges)
    assert total.sum() == len(heights) == sum(int(p.valid.sum()) for p in outcome.photos) == 15
    assert np.nansum(total * rate) == pytest.approx(found.sum()) and 0 < found.sum() < 15
    small = plots.height_edges(np.array([0.0, 100]))
    assert small[:3] == pytest.approx([8 / 2**0.5, 8, 8 * 2**0.5]) and small[-2] <= 100 < small[-1]


def test_a_curve_of_many_points_is_thinned() -> None:
    x = np.sort(np.random.default_rng(0).random(10000))
    kept = plots._thin(x)
    assert len(kept) <= plots.POINTS + 1 and kept[-1] == 9999 and np.diff(x[kept]).max() < 0.01


def test_the_spec_of_a_packed_file_costs_what_the_zoo_says() -> None:
    spec = integer.spec_of(packed.load(zoo.model_path("dupnet-tinier-yolo")))
    assert cost.count(spec).layers == cost.count(zoo.get("dupnet-tinier-yolo")).layers


@pytest.fixture
def evaluate(faces: Path, tmp_path: Path) -> Callable[..., object]:
    samples, _ = annotations.split(faces, "val")
    predictions.write_wider(tmp_path / "tree", [one.photo for one in samples], boxes_of(faces, 1))
    return lambda *rest: CliRunner().invoke(main, ["evaluate", *map(str, rest), "--wider", str(faces), "--size", "128"])


def test_evaluate_compares_models_and_files(evaluate: Callable[..., object], tmp_path: Path) -> None:
    pictures = ["--report", tmp_path / "out.html", "--plot", tmp_path / "out.png", "--plot", tmp_path / "out.svg"]
    done = evaluate("dupnet-tinier-yolo", "--detections", f"{HOSTILE}={tmp_path / 'tree'}", *pictures, "--json")
    assert done.exit_code == 0, done.output
    model, other = map(json.loads, done.stdout.splitlines())
    assert model["model"] == "dupnet-tinier-yolo" and model["size"] == 128 and model["photos"] == 8
    assert other["model"] == HOSTILE and other["dr"] > 0 and "size" not in other
    page = Page((tmp_path / "out.html").read_text())
    for words in (
        "Face detection on 8 photos of faces (val)",
        "dupnet-tinier-yolo, as shipped",
        "SHA-256",
        "Run by",
        f"{other['ap_medium']:.3f}",
    ):
        assert words in page.text
    assert (tmp_path / "out.png").exists() and (tmp_path / "out.svg").exists()
    table = evaluate("dupnet-tinier-yolo", "--detections", f"other={tmp_path / 'tree'}").output
    assert re.search(rf"^other +{other['ap_easy']:.3f}", table, re.MULTILINE)


def test_models_of_one_name_are_told_apart(evaluate: Callable[..., object], tmp_path: Path) -> None:
    shutil.copy(zoo.model_path("dupnet-tinier-yolo"), tmp_path / "mine.dnet")
    done = evaluate("dupnet-tinier-yolo", tmp_path / "mine.dnet")
    assert done.exit_code == 0 and "dupnet-tinier-yolo (mine.dnet):" in done.output and "dupnet-tinier-yolo (as shipped):" in done.output
    (tmp_path / "other").mkdir()
    shutil.copy(tmp_path / "mine.dnet", tmp_path / "other" / "mine.dnet")
    alike = evaluate(tmp_path / "mine.dnet", tmp_path / "other" / "mine.dnet").output
    assert f"({tmp_path / 'mine.dnet'}):" in alike and f"({tmp_path / 'other' / 'mine.dnet'}):" in alike


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        ([], 2, "nothing to measure"),
        (["--detections", "nothing"], 2, "expected NAME=PATH"),
        (["--detections", "x=missing"], 2, "expected NAME=PATH with a PATH that exists"),
        (["dupnet-tinier-yolo", "--plot", "x.pdf"], 1, "must end in one of .png .svg"),
        (["dupnet-tinier-yolo", "--report", "nowhere/x.html"], 1, "the folder nowhere does not exist"),
        (["dupnet-tinier-yolo", "--report", "/dev/null"], 1, "/dev/null: exists and is no ordinary file"),
        (["dupnet-tinier-yolo", "--report", "a.svg", "--plot", "./a.svg"], 2, "need a file of its own each"),
        (["dupnet-tinier-yolo"] * 9 + ["--plot", "a.svg"], 1, "8 detectors can be told apart in one plot, not 9"),
    ],
)
def test_what_cannot_work_is_told_before_the_photos_are_read(
    evaluate: Callable[..., object], monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, reason: str
) -> None:
    monkeypatch.setattr(image, "read", lambda path: pytest.fail("a photo was read"))
    done = evaluate(*arguments)
    assert done.exit_code == code and reason in done.output


def test_a_tree_without_a_photo_is_told(evaluate: Callable[..., object], tmp_path: Path) -> None:
    (tmp_path / "tree/0--Discs/3.txt").unlink()
    done = evaluate("--detections", f"x={tmp_path / 'tree'}")
    assert done.exit_code == 1 and "1 of 8 photos are missing, such as" in done.output


@pytest.mark.parametrize(("library", "option"), [("matplotlib", "--plot=x.svg"), ("jinja2", "--report=x.html")])
def test_a_missing_library_is_named(evaluate: Callable[..., object], monkeypatch: pytest.MonkeyPatch, library: str, option: str) -> None:
    for name in [
        name for name in sys.modules if name.split(".")[0] == library or name in ("dupnet.evaluation.plots", "dupnet.evaluation.report")
    ]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("plots", "report"):
        monkeypatch.delattr(f"dupnet.evaluation.{name}")
    monkeypatch.setitem(sys.modules, library, None)
    done = evaluate("dupnet-tinier-yolo", option)
    assert done.exit_code == 1 and f"this needs {library}" in done.output and "pip install 'dupnet[report]'" in done.output


def test_a_sum_of_overlaps_has_no_precision(faces: Path) -> None:
    one = outcome_of(faces, "one", 0)
    total = replace(one.curve, name="continuous", hits=one.curve.hits * 0.8, is_sum=True)
    page = Page(page_of(faces, replace(one, curves=(one.curve, total))))
    assert "Overlaps, continuous, against false positives" in page.text and "sum of overlaps / faces" in page.text
    assert [name for name in page.values("id") if re.fullmatch(r"(roc|pr)-\d", name)] == ["roc-0", "roc-1", "pr-0"]


def test_a_name_that_is_no_text_spoils_no_report(tmp_path: Path) -> None:
    broken = "caf\udce9"  # what Python makes of a byte that is no UTF-8
    report.write(tmp_path / "x.html", [report.Entry(one_photo(name=broken))], data_photo(tmp_path), title=broken, about={}, date="d")
    assert "caf\\udce9" in (tmp_path / "x.html").read_text()
    with pytest.raises(DataError, match="cannot be written"):
        report.write(tmp_path / "no/x.html", [report.Entry(one_photo())], tmp_path, title="t", about={}, date="d")
