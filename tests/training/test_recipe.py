"""Recipes: all that ship load, dictionaries come back, mistakes are named."""

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from dupnet import zoo
from dupnet.cli import main
from dupnet.errors import SpecError
from dupnet.training import loop
from dupnet.training import recipe as recipes
from dupnet.training.loop import learning_rate
from dupnet.training.loss import LossOptions
from dupnet.training.multibox import MultiboxOptions
from dupnet.training.recipe import Optimizer, Recipe, Schedule
from dupnet.training.teacher import Teacher


@pytest.mark.parametrize("name", recipes.names())
def test_every_shipped_recipe_loads_and_comes_back(name: str) -> None:
    loaded = recipes.load(name)
    assert recipes.from_dict(recipes.to_dict(loaded)) == loaded


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps = 3", "needs 'spec'"),
        ('spec = "dupnet-tinier-yolo"', "needs 'steps'"),
        ('spec = "nothing"\nsteps = 3', "no model 'nothing'"),
        ('spec = "dupnet-tinier-yolo"\nsteps = 0', "steps must be at least 1"),
        ('spec = "dupnet-tinier-yolo"\nsteps = 3\nstep = 3', "unknown key 'step'"),
        ('spec = "dupnet-tinier-yolo"\nsteps = 3\n[loss]\nstyle = "ssd"', r"\[loss\]: style must be 'iou' or 'yolov2'"),
        ('spec = "dupnet-tinier-yolo"\nsteps = 1.5', "steps must be a whole number"),
        ('spec = "dupnet-tinier-yolo"\nsteps = 3\nseed = -1', "seed must be"),
        ('spec = "dupnet-tinier-yolo"\nsteps = 3\nweights = 3', "weights must be a table"),
        ('spec = "dupnet-tinier-yolo"\nsteps = 3\n[weights]\na = "x"', "weights.a must be a finite number"),
        ('spec = "dupnet-tinier-yolo"\nsteps = 3\n[weights]\na = -2.0\nb = 1.0', "weights must be at least 0, not a = -2.0$"),
        (f'spec = "dupnet-tinier-yolo"\nsteps = 3\n[weights]\na = 1{"0" * 400}', "weights.a must be a finite number"),
        (f"steps = 1{'0' * 5000}", "not valid TOML"),
        (f"steps = {'[' * 3000}", "not valid TOML"),
        ('spec = "dupnet-tinier-yolo"\nsteps = 3\n[network]\nactivation = "PACTT"', "activation must be"),
        ('spec = "dupnet-tinier-yolo"\nsteps = 3\n[network]\ngradient = "x"', "gradient must be"),
        ('spec = "dupnet-tinier-yolo"\nsteps = 3\n[augmentation]\nface_px = 3', "face_px must be a list of 2"),
        ('spec = "dupnet-tinier-yolo"\nsteps = 3\n[schedule]\nwarmup_steps = "a"', "warmup_steps must be a whole number"),
        ('spec = "dupnet-tinier-yolo"\nsteps = 3\n[optimizer]\nlearning_rate = nan', "a finite number"),
        ('spec = "dupnet-tinier-yolo"\nsteps = 3\n[loss]\nfoo = 1', r"\[loss\]: unknown key 'foo'"),
        ('spec = "dupnet-tinier-yolo"\nsteps = 3\n[augmentation]\ncrop_px = 330', "crop_px"),
        ('spec = "dupnet-tinier-yolo"\nsteps = 3\n[optimizer]\nclip_norm = -1', "optimizer: clip_norm must be at least 0"),
        ('spec = "dupnet-tinier-yolo"\nsteps = 3\n[optimizer]\nmomentum = 7', "optimizer: momentum must be"),
        ('spec = "dupnet-tinier-yolo"\nsteps = 3\n[schedule]\nfinal = -1', "schedule: final must be at least 0"),
        ('spec = "dupnet-tinier-yolo"\nsteps = 3\n[loss]\nbox = -1', "loss: box must be at least 0"),
        ('spec = "dupnet-tinier-yolo"\nsteps = 3\n[loss]\nhit_iou = 7', r"loss: hit_iou must be in \[0, 1\]"),
        ('spec = "dupnet-tinier-yolo"\nsteps = 3\nseed = 99999999999999999999', "seed must be at least 0 and below"),
        ('spec = "eresfd"\nsteps = 3\n[multibox]\nnegative_ratio = -3', "multibox: negative_ratio must be at least 0"),
        ('spec = "eresfd"\nsteps = 3\n[multibox]\nlow = 0.4', "multibox: low and match must be"),
        ('spec = "eresfd"\nsteps = 3\n[multibox]\nsure = 9', "multibox: sure must be"),
        ("steps =", "not valid TOML"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(SpecError, match=message) as caught:
        recipes.load(path)
    assert "mine.toml" in str(caught.value)


@pytest.mark.parametrize(
    ("make", "choice"), [(Optimizer, "kind"), (Schedule, "shape"), (LossOptions, "style"), (MultiboxOptions, "negatives"), (Teacher, "use")]
)
def test_choices_are_checked_wherever_options_come_from(make: type, choice: str) -> None:
    with pytest.raises(SpecError, match=f": {choice} must be '.*' or '.*', not 'neither'"):
        make(**{choice: "neither"})


def test_a_recipe_may_hold_only_what_differs_from_another(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('like = "cool"\nsteps = 7\n[loss]\nbox = 1.0\n[weights]\nmafa = 2.0\n')
    (tmp_path / "yours.toml").write_text('like = "mine.toml"\nseed = 5\n')
    cool, mine, yours = recipes.load("cool"), recipes.load(tmp_path / "mine.toml"), recipes.load(tmp_path / "yours.toml")
    assert mine == replace(cool, steps=7, loss=replace(cool.loss, box=1.0), weights=cool.weights | {"mafa": 2.0})
    assert yours == replace(mine, seed=5)


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ('"absent"', r"absent: no such recipe file.*asked for by .*mine\.toml"),
        ('"mine.toml"', r"mine\.toml: is like 'mine\.toml', which is like this one"),
        ('"other.toml"', r"other\.toml: is like 'mine\.toml', which is like this one"),
        ("3", r"mine\.toml: like must be the name of a recipe"),
    ],
)
def test_what_a_recipe_cannot_be_like(tmp_path: Path, like: str, message: str) -> None:
    (tmp_path / "mine.toml").write_text(f"like = {like}")
    (tmp_path / "other.toml").write_text('like = "mine.toml"')
    with pytest.raises(SpecError, match=message):
        recipes.load(tmp_path / "mine.toml")


def test_a_missing_recipe_lists_those_that_ship() -> None:
    with pytest.raises(SpecError, match=recipes.names()[0]):
        recipes.load("absent.toml")


def test_schedules() -> None:
    spec = zoo.get("dupnet-tinier-yolo")
    cosine = Recipe(spec, steps=1300, schedule=Schedule("cosine", warmup_steps=300, final=0.01))
    assert learning_rate(cosine, 0) == pytest.approx(2e-3 / 300)
    assert learning_rate(cosine, 300) == pytest.approx(2e-3)
    assert learning_rate(cosine, 800) == pytest.approx(2e-3 * (0.01 + 0.99 / 2))
    assert learning_rate(cosine, 1300) == pytest.approx(2e-5)
    step = Recipe(spec, steps=100, schedule=Schedule("step", warmup_steps=0, milestones=(30, 60), factor=0.1))
    assert [learning_rate(step, n) for n in (0, 29, 30, 60)] == pytest.approx([2e-3, 2e-3, 2e-4, 2e-5])


def test_a_recipe_for_another_model() -> None:
    mine = recipes.load("first-light")
    pact = recipes.with_model(mine, spec="table6/dupnet-l+pact")
    assert pact.spec == zoo.get("table6/dupnet-l+pact") and pact.network == mine.network
    assert recipes.with_model(mine, spec="table6/dupnet-l").network.activation == "hwgq"
    assert recipes.with_model(mine, spec="table6/dupnet-l", activation="pact").network.activation == "pact"
    assert recipes.with_model(mine, spec="ifq-tinier-yolo").network.activation == mine.network.activation
    assert recipes.with_model(mine) == mine


def test_a_recipe_may_name_a_row_or_changes(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    for name in ("table2/a4w4-4x", "tinier-yolo-half:conv1.map_copies=2"):
        path.write_text(f'spec = "{name}"\nsteps = 3\n')
        assert recipes.load(path).spec == zoo.get(name)


def test_a_seed_and_a_number_of_steps_replace_those_of_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Recipe] = []
    monkeypatch.setattr(loop, "train", lambda recipe, **how: seen.append(recipe))
    plain, changed = ["train", "larger", "--data", str(tmp_path)], ["--seed", "0", "--steps", "7"]
    for arguments in (plain, plain + changed):
        assert CliRunner().invoke(main, arguments).exit_code == 0
    assert (seen[0].seed, seen[0].steps) == (36, 18000)
    assert seen[1] == replace(seen[0], seed=0, steps=7)
    assert CliRunner().invoke(main, [*plain, "--steps", "0"]).exit_code == 2
    for other in (["--resume"], ["--stop-at", "3"]):
        both = CliRunner().invoke(main, [*plain, "--measure", *other])
        assert both.exit_code == 2 and "--measure begins anew" in both.output
