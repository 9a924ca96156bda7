"""A training run as checked data: which model, how long, with which losses and crops. Comes from TOML, goes into checkpoints."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from dupnet import spec as model_spec
from dupnet import zoo
from dupnet.data.augmentation import Augmentation
from dupnet.errors import SpecError
from dupnet.nn.network import NetworkOptions
from dupnet.spec import ModelSpec
from dupnet.training.loss import LossOptions

RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class Optimizer:
    """Attributes:
    kind: `"adamw"` or `"sgd"`.
    learning_rate: at the top of the schedule.
    momentum: of SGD; AdamW uses (0.9, 0.999).
    weight_decay: on convolutions' weights only.
    clip_norm: largest norm of the whole gradient; 0 for no limit.
    """

    kind: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 2e-3
    momentum: float = 0.9
    weight_decay: float = 0.0
    clip_norm: float = 10.0

    def __post_init__(self) -> None:
        if self.kind not in ("adamw", "sgd"):
            raise SpecError(f"optimizer: kind must be 'adamw' or 'sgd', not {self.kind!r}")
        if self.learning_rate <= 0:
            raise SpecError(f"optimizer: learning_rate must be above 0, not {self.learning_rate}")


@dataclass(frozen=True)
class Schedule:
    """How the learning rate moves: a linear warm-up, then `"cosine"` down to `final` times the top, or `"step"`, times `factor` at each of
    the milestones."""

    shape: Literal["cosine", "step"] = "cosine"
    warmup_steps: int = 300
    final: float = 0.005
    milestones: tuple[int, ...] = ()
    factor: float = 0.1

    def __post_init__(self) -> None:
        if self.shape not in ("cosine", "step"):
            raise SpecError(f"schedule: shape must be 'cosine' or 'step', not {self.shape!r}")


@dataclass(frozen=True)
class Recipe:
    """One training run.

    Attributes:
        spec: what is trained; in TOML a name from the zoo, a path to a spec, or a table.
        steps: optimizer steps; `batch` crops each (per process).
        batch: crops of one process and step.
        seed: of initial weights and of every crop.
        ema: decay of the moving average of the weights, which is what is shipped; 0 for none.
        start_from: a checkpoint whose weights this run begins with, or "".
        weights: how often photos of a top folder are drawn, relative to 1.
        checkpoint_steps: a checkpoint is written this often.
    """

    spec: ModelSpec
    steps: int
    batch: int = 16
    seed: int = 0
    ema: float = 0.999
    start_from: str = ""
    checkpoint_steps: int = 500
    weights: dict[str, float] = field(default_factory=dict)
    network: NetworkOptions = field(default_factory=NetworkOptions)
    augmentation: Augmentation = field(default_factory=Augmentation)
    loss: LossOptions = field(default_factory=LossOptions)
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "checkpoint_steps"):
            if getattr(self, name) < 1:
                raise SpecError(f"recipe: {name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.ema < 1:
            raise SpecError(f"recipe: ema must be in [0, 1), not {self.ema}")
        if self.augmentation.crop_px % self.spec.stride:
            raise SpecError(f"recipe: crop_px must be a multiple of the model's stride {self.spec.stride}, not {self.augmentation.crop_px}")


SECTIONS = {"network": NetworkOptions, "augmentation": Augmentation, "loss": LossOptions, "optimizer": Optimizer, "schedule": Schedule}


def names() -> list[str]:
    """Names of the recipes that ship."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def load(recipe: str | Path) -> Recipe:
    """Read a recipe.

    Args:
        recipe: a path, or the name of one that ships.

    Raises:
        SpecError: it cannot be read, or says something impossible; the message names the place.
    """
    path = Path(recipe)
    if not path.exists() and str(recipe) in names():
        path = RECIPES / f"{recipe}.toml"
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{recipe}: no such recipe file, and not one of those that ship ({', '.join(names())}): {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{path}: not valid TOML: {error}") from None
    return from_dict(table, source=str(path))


def from_dict(table: dict[str, Any], *, source: str = "recipe") -> Recipe:
    """A recipe from plain data, as TOML gives it or `to_dict` made it."""
    try:
        values: dict[str, Any] = {}
        known = {f.name: f for f in fields(Recipe)}
        for key, value in table.items():
            if key not in known:
                raise SpecError(f"unknown key {key!r} (known: {', '.join(sorted(known))})")
            if key == "spec":
                values[key] = _spec(value)
            elif key in SECTIONS:
                values[key] = _section(key, value)
            else:
                values[key] = value
        if missing := [key for key in ("spec", "steps") if key not in values]:
            raise SpecError(f"needs {missing[0]!r}")
        return Recipe(**values)
    except (SpecError, TypeError) as error:
        raise SpecError(f"{source}: {error}") from None


def _spec(value: object) -> ModelSpec:
    if isinstance(value, dict):
        return model_spec.from_dict(value)
    if isinstance(value, str):
        return zoo.get(value) if value in zoo.names() or not Path(value).exists() else model_spec.load(value)
    raise SpecError(f"spec must be a name, a path or a table, not {value!r}")


def _section(name: str, table: object) -> Any:
    kind = SECTIONS[name]
    if not isinstance(table, dict):
        raise SpecError(f"[{name}] must be a table, not {table!r}")
    known = {f.name for f in fields(kind)}
    if unknown := sorted(set(table) - known):
        raise SpecError(f"[{name}]: unknown key {unknown[0]!r} (known: {', '.join(sorted(known))})")
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in table.items()})


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """Plain data; `from_dict(to_dict(recipe)) == recipe`."""
    return {**asdict(recipe), "spec": model_spec.to_dict(recipe.spec)}
