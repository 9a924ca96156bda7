"""Ideas against a baseline: what a file of ideas means, runs that are done once, and the table."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from dupnet.cli import main
from dupnet.errors import DupnetError, SpecError
from dupnet.experiments import ablation, runs
from dupnet.training import recipe as recipes
from dupnet.training.loop import Run

ROOT = Path(__file__).parents[2]

IDEAS = """
recipe = "tiny"
size_px = 96
[baseline]
steps = 4
augmentation.mosaic = 0.0
[ideas.sharper]
loss.focal = 2
[ideas.both]
loss.focal = 2
batch = 1
"""


@pytest.fixture
def ideas(tmp_path: Path) -> Path:
    path = tmp_path / "ideas.toml"
    path.write_text(IDEAS)
    return path


def test_an_idea_changes_the_baseline_and_nothing_else(ideas: Path) -> None:
    plan = ablation.load(ideas)
    tiny, base, both = recipes.load("tiny"), plan.recipes["baseline"], plan.recipes["both"]
    assert (base.steps, base.augmentation.mosaic, base.augmentation.crop_px) == (4, 0.0, tiny.augmentation.crop_px)
    assert (both.loss.focal, both.batch, both.steps, both.augmentation) == (2.0, 1, 4, base.augmentation)
    assert plan.changes == {"sharper": "loss.focal = 2", "both": "loss.focal = 2, batch = 1"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('recipe = "tiny"\nidea.x = 1', "unknown key 'idea'"),
        ('recipe = "tiny"\nideas.x = 1', "every idea to be a table"),
        ('recipe = "tiny"\nideas = 3', "every idea to be a table"),
        ('recipe = "tiny"\nbaseline = []', r"baseline must be a table, not \[\]"),
        ('recipe = "tiny"\nideas.x.seed = 3', r"\[ideas.x\]: a seed is no idea"),
        ('recipe = "tiny"\nideas.x.loss.focal = 2\nideas.y.loss.focal = 2', r"\[ideas.y\]: changes nothing, it is the recipe of 'x'"),
        ('recipe = "tiny"\nideas.baseline.batch = 3', "cannot be called 'baseline'"),
        ('recipe = "tiny"\nideas.x.loss.focus = 1', r"\[ideas.x\].*unknown key 'focus'"),
        ('recipe = "tiny"\nbaseline.steps = 0', r"\[baseline\].*steps must be at least 1"),
        ("size_px = 3", "needs recipe"),
        ('recipe = "tiny"\nsize_px = 5', "size_px must be a whole number of 32 to 8192 pixels, not 5"),
        ('recipe = "tiny"\nsize_px = true', "size_px must be a whole number"),
        ("[", "cannot be read as a file of ideas"),
    ],
)
def test_a_wrong_file_of_ideas_is_refused_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "ideas.toml"
    path.write_text(text)
    with pytest.raises(SpecError, match=message):
        ablation.load(path)


def test_the_campaign_of_the_repository_can_be_read() -> None:
    plan = ablation.load(ROOT / "models" / "ideas.toml")
    crops = {recipe.steps * recipe.batch for recipe in plan.recipes.values()}
    assert len(crops) == 1, "every idea gets the same number of crops"
    assert len(plan.recipes) == len({str(recipe) for recipe in plan.recipes.values()}), "every idea is a change"


def test_runs_are_done_once_and_end_in_a_table(ideas: Path, faces: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    arguments = ["ablate", str(ideas), "--data", str(faces), "--out", str(out), "--workers", "0", "--threads", "1", "--device", "cpu"]
    first = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert first.exit_code == 0 and first.output.count("seed 2: ap_easy") == 3
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("run.json")}
    assert len(stamps) == 6
    again = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("run.json")} == stamps and "seed" not in again.stderr
    lines = (out / "ablation.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in lines[2:5]] == ["| baseline", "| sharper", "| both"]
    assert "| loss.focal = 2, batch = 1 | 2 |" in lines[4]


def test_a_run_that_diverges_is_told_at_the_end(ideas: Path, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = runs.train

    def diverging(recipe: recipes.Recipe, run: Run, *, progress: bool = False) -> None:
        if recipe.batch == 1:
            raise DupnetError("the loss became nan")
        train(recipe, run, progress=progress)

    monkeypatch.setattr(runs, "train", diverging)
    how = ["--seeds", "1", "--workers", "0", "--threads", "1", "--device", "cpu"]
    done = CliRunner().invoke(main, ["ablate", str(ideas), "--data", str(faces), "--out", str(tmp_path / "runs"), *how])
    assert done.exit_code == 1 and "1 runs failed: both, seed 1 (the loss became nan)" in done.output
    assert "| sharper | loss.focal = 2 | 1 |" in (tmp_path / "runs" / "ablation.md").read_text()


def test_what_the_photos_do_not_show_is_no_verdict(ideas: Path) -> None:
    found = {"baseline": scores(0.60, 0.61, precision=None), "good": scores(0.70, 0.71, precision=None)}
    line = ablation.text(ablation.load(ideas), found).splitlines()[3]
    assert line == "| good |  | 2 | 0.800 | - | 0.400 | 0.705 | - | +0.100 ± 0.030 | 1.00 | helps |"
    nothing = {idea: [row | {"dr": None, "seconds": 0.0} for row in rows] for idea, rows in found.items()}
    assert ablation.text(ablation.load(ideas), nothing).splitlines()[3].endswith("| - | - | - | 0.00 | not measured |")


def scores(*rates: float, precision: float | None = 0.7) -> list[dict[str, float | None]]:
    return [{"ap_easy": 0.8, "ap_medium": precision, "ap_hard": 0.4, "dr": rate, "seconds": 90.0} for rate in rates]


def test_a_verdict_needs_a_gain_beyond_the_spread() -> None:
    plan = ablation.Ablation({}, {}, 416)
    found = {
        "baseline": scores(0.60, 0.61),
        "good": scores(0.70, 0.71),
        "bad": scores(0.50, 0.51),
        "alike": scores(0.605, 0.615),
        "precise": scores(0.605, 0.615, precision=0.76),
        "two-edged": scores(0.50, 0.51, precision=0.76),
    }
    table = ablation.text(plan, found)
    verdicts = {line.split(" | ")[0][2:]: line.split(" | ")[-1][:-2] for line in table.splitlines()[3:8]}
    assert verdicts == {
        "good": "helps",
        "bad": "harms",
        "alike": "the spread cannot tell",
        "precise": "helps",
        "two-edged": "helps one, harms the other",
    }
    assert "+0.100 ± 0.017" in table  # sd .00707 of 6 degrees of freedom: 2.45 x .00707 x 1
    assert "| +0.020 ± 0.000 | +0.005" in table  # a third of .06, and no scatter


def test_without_repeats_there_is_no_verdict() -> None:
    table = ablation.text(ablation.Ablation({}, {}, 416), {"baseline": scores(0.60), "good": scores(0.70)})
    assert "| +0.100 | 1.00 | the spread cannot tell (no row was run with two seeds) |" in table
