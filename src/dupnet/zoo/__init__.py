"""The models that ship: specs as TOML, trained packed files beside them where they exist."""

from __future__ import annotations

from pathlib import Path

from dupnet import spec as _spec
from dupnet.errors import SpecError

_HERE = Path(__file__).parent


def names() -> list[str]:
    """Names of all specs, sorted."""
    return sorted(path.stem for path in _HERE.glob("*.toml"))


def get(name: str) -> _spec.ModelSpec:
    """The spec of that name.

    Raises:
        SpecError: no such spec; the message lists the names.

    Example:
        >>> get("dupnet-tinier-yolo").layers[6].weight_copies
        4
    """
    if name not in names():
        raise SpecError(f"no model {name!r} in the zoo; it holds {', '.join(names())}")
    return _spec.load(_HERE / f"{name}.toml")


def model_names() -> list[str]:
    """Names of the trained models that ship, sorted."""
    return sorted(path.stem for path in _HERE.glob("*.dnet"))


def model_path(name: str) -> Path:
    """Path of the packed file of a trained model.

    Raises:
        SpecError: that model does not ship; the message lists those that do.
    """
    if name not in model_names():
        raise SpecError(f"no trained model {name!r} ships with dupnet; these do: {', '.join(model_names()) or 'none'}")
    return _HERE / f"{name}.dnet"
