"""Networks on disk: spec, options and weights in one file of plain data and tensors, read without executing anything."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from dupnet import spec as model_spec
from dupnet.errors import CheckpointError
from dupnet.files import whole
from dupnet.nn.eresfd import EResFD, is_published, load_published
from dupnet.nn.network import Network, NetworkOptions, not_finite
from dupnet.spec import EResFDSpec

KIND = "dupnet network 1"
KIND_ERESFD = "dupnet eresfd 1"


def write(path: str | Path, content: dict[str, Any]) -> None:
    """Write `content` (plain data and tensors) so that a complete file is there or the old one is untouched.

    Raises:
        CheckpointError: it cannot be written, perhaps for lack of room.
        OSError: the same, as the system says it.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as part, open(part, "wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # torch's writer says so when the disk is full
            raise CheckpointError(f"{path}: cannot be written: {error}") from None
        file.flush()
        os.fsync(file.fileno())


def read(path: str | Path) -> dict[str, Any]:
    """Read what `write` wrote.

    Raises:
        CheckpointError: no such file, damaged, or not one of ours.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:  # others torch's reader raises for damaged files, too
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None
    except Exception as error:  # foreign bytes make torch's reader raise almost anything
        raise CheckpointError(f"{path}: not a readable checkpoint: damaged, or something else ({type(error).__name__})") from None
    if not isinstance(content, dict) or content.get("kind") not in (KIND, KIND_ERESFD):
        raise CheckpointError(f"{path}: a file that torch can read, but not a checkpoint of dupnet ({KIND!r} or {KIND_ERESFD!r})")
    return content


def describe(network: Network | EResFD) -> dict[str, Any]:
    """What a checkpoint holds about a network, weights included."""
    weights = {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}
    if isinstance(network, EResFD):
        return {"kind": KIND_ERESFD, "spec": asdict(network.spec), "weights": weights}
    return {"kind": KIND, "spec": model_spec.to_dict(network.spec), "options": asdict(network.options), "weights": weights}


def save(network: Network | EResFD, path: str | Path) -> None:
    """Write a network: spec, options, weights and batch-norm statistics."""
    write(path, describe(network))


def load(path: str | Path) -> Network:
    """Read a YOLO network, in evaluation mode. From a checkpoint of a training run it is the averaged weights that are returned, if it
    has them.

    Raises:
        CheckpointError: the file is not a checkpoint, holds an EResFD, or its weights do not fit its spec.
    """
    network = load_any(path)
    if isinstance(network, EResFD):
        raise CheckpointError(f"{path}: holds an EResFD, a float detector; a network of quantizable layers is needed here")
    return network


def load_any(path: str | Path) -> Network | EResFD:
    """Read a network of either kind, EResFD's published weights included; otherwise as `load`."""
    if is_published(path):
        return load_published(path)
    content = read(path)
    try:
        network: Network | EResFD
        if content["kind"] == KIND_ERESFD:
            network = EResFD(EResFDSpec(**content["spec"]))
        else:
            network = Network(model_spec.from_dict(content["spec"]), NetworkOptions(**content["options"]))
        network.load_state_dict(content.get("average") or content["weights"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: spec and weights do not fit: {str(error).splitlines()[0]}") from None
    if bad := not_finite(network):
        raise CheckpointError(f"{path}: {bad} holds values that are not finite")
    return network.eval()
