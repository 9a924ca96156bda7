"""The models that ship: specs as TOML, trained packed files beside them where they exist."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from dupnet import paper
from dupnet import spec as _spec
from dupnet.errors import SpecError

_HERE = Path(__file__).parent


def names() -> list[str]:
    """Names of all specs, sorted."""
    return sorted(path.stem for path in _HERE.glob("*.toml"))


def get(name: str) -> _spec.ModelSpec:
    """The spec of that name.

    Args:
        name: one of `names()`; or a row of the paper's tables (`dupnet.paper.rows`), such as `table4/conv2-3`; or a TOML file, which ends
            in `.toml`; or any of them with changes behind a colon, such as `tinier-yolo-half:conv6-8.weight_copies=4`
            (`dupnet.spec.derive`).

    Raises:
        SpecError: no such spec; the message lists the names. Or the changes make no model.

    Example:
        >>> get("dupnet-tinier-yolo").layers[6].weight_copies
        4
        >>> layer = get("table2/a4w4-8x").layers[6]
        >>> layer.weight_bits, layer.input_bits, layer.weight_copies
        (4, 4, 8)
    """
    if name in names():
        return _spec.load(_HERE / f"{name}.toml")
    if name.endswith(".toml"):
        return _spec.load(name)
    if row := paper.row(name):
        about = f"{row.table.capitalize().replace('e', 'e ', 1)} of the paper: {row.spec}"
        return replace(get(row.spec), name=name, about=about)
    base, colon, changes = name.rpartition(":")
    if colon:
        return _spec.derive(get(base), changes)
    if name.endswith(".dnet"):
        raise SpecError(f"{name}: is called like a packed file, and a spec is wanted: a name or a .toml; dupnet inspect looks into files")
    tables = ", ".join(dict.fromkeys(row.table for row in paper.rows()))
    raise SpecError(f"no model {name!r} in the zoo; it holds {', '.join(names())}, and the rows of {tables} (dupnet zoo lists them)")


def model_names() -> list[str]:
    """Names of the trained models that ship, sorted."""
    return sorted(path.stem for path in _HERE.glob("*.dnet"))


def is_checkpoint(model: str | os.PathLike[str]) -> bool:
    """Whether this is the name of a checkpoint, which runs in torch: it ends in `.pt` or `.pth`. All else is a packed file or a name."""
    return Path(model).suffix.lower() in (".pt", ".pth")


def model_path(model: str | os.PathLike[str]) -> Path:
    """Path of a packed file.

    Args:
        model: a name of `model_names()`, or a path, which is returned as it is. A string is a path if it ends in `.dnet`, has a
            folder in it, or is no name and exists.

    Raises:
        SpecError: no model of that name ships; the message lists those that do.
    """
    if not isinstance(model, str) or model.endswith(".dnet") or Path(model).name != model:
        return Path(model)
    if model in model_names():
        return _HERE / f"{model}.dnet"
    if os.path.exists(model):
        return Path(model)
    raise SpecError(f"no trained model {model!r} ships with dupnet; these do: {', '.join(model_names()) or 'none'}")
