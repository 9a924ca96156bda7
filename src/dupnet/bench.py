"""How fast a detector is here: a detection, in the C core also its stages, other detectors beside it, and what the instructions could
do at best.

Times are medians of repetitions in which all that is compared takes turns, so that a noisy machine disturbs all alike. A ratio
means more than its milliseconds. The photo has the size that the network reads: nothing is resized, everything else counts.
"""

from __future__ import annotations

import platform
import runpy
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dupnet import cost, image, integer, packed, zoo
from dupnet.detections import DEFAULT_IOU, Detections
from dupnet.errors import DataError, ModelFileError
from dupnet.runtime import open_core

SCORE = 0.5
"""Lowest score that every detector keeps while it is measured."""


@dataclass(frozen=True)
class StageTime:
    """One stage.

    Attributes:
        name: `Conv1`, ...
        way: how the kernels compute it (docs/kernels.md).
        median_ms: of one run.
        macs, effective_macs: multiply-adds of the convolution over duplicated channels, and after the shortcuts (`dupnet.cost`), of the
            filters that the packed model has.
        gmacs_per_s: effective multiply-adds, in thousand millions a second.
        share: of all stages' time, 0 to 1.
        least_ms: what its vector instructions take at the measured peak, every lane in use; None if it has none or nobody asked.
    """

    name: str
    way: str
    median_ms: float
    macs: int
    effective_macs: int
    gmacs_per_s: float
    share: float
    least_ms: float | None


@dataclass(frozen=True)
class PeerTime:
    """Another detector. `ratio` is the model's median divided by this one's."""

    name: str
    median_ms: float
    ratio: float


@dataclass(frozen=True)
class Bench:
    """What was measured.

    Attributes:
        model: its name.
        processor: of this machine.
        isa: the kernels (`DUPNET_KERNELS`), or `"torch"`.
        threads: that shared each detection.
        size: `640x480`, width x height of the photo in pixels.
        median_ms, min_ms: of one detection, from pixels to boxes.
        repetitions: that the medians are of.
        stages: in order, in the C core; what is left of `median_ms` is copying the photo and decoding boxes.
        peers: other detectors on the same photo in the same run.
        peaks: vector instructions (each with its addition) a second, for each way; empty unless asked for.
        peak_share: the stages' least times, divided by the times that they took on one thread; None unless asked for.
    """

    model: str
    processor: str
    isa: str
    threads: int
    size: str
    median_ms: float
    min_ms: float
    repetitions: int
    stages: tuple[StageTime, ...]
    peers: tuple[PeerTime, ...]
    peaks: dict[str, float]
    peak_share: float | None


def processor() -> str:
    """This machine's processor, by the name that the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or "unknown processor")


def measure(
    model: str,
    size_hw: tuple[int, int] = (480, 640),
    *,
    threads: int = 1,
    isa: str = "",
    photo: str | Path | None = None,
    peers: str | Path | None = None,
    peer_names: tuple[str, ...] = ("yunet_s",),
    roofline: bool = False,
    seconds: float = 3.0,
) -> Bench:
    """Measure.

    Args:
        model: a name that ships, or the path of a `.dnet` file.
        size_hw: height and width of the photo in pixels.
        threads: for this model and for the peers.
        isa: the kernels, as in DUPNET_KERNELS; the fastest if empty.
        photo: scaled to the size before the clock starts; seeded noise if None.
        peers: folder with a module `peers`: `load(name, threads=, floor=) -> callable(rgb_u8)`.
        peer_names: what `load` is asked for.
        roofline: measure the peak of the instructions as well.
        seconds: how long to repeat.

    Raises:
        ModelFileError: the file cannot be used. SpecError: no model of that name ships, or no such kernels run here.
        DataError: the peers cannot be loaded. ImageError: `photo` cannot be read.

    Example:
        >>> measure("dupnet-tinier-yolo", (64, 64), isa="portable", seconds=0.1).stages[0].way
        'portable'
    """
    path = zoo.model_path(model)
    core = open_core(path, isa)
    if core.classes:
        raise ModelFileError(f"{path}: {core.name!r} is a classifier; detection is measured here")
    rgb = _photo(photo, size_hw)
    pixels = image.to_input(rgb, max(size_hw), stride=core.stride).pixels
    others = _peers(peers, peer_names, rgb, threads)
    ways = core.ways() if roofline else []
    kinds = sorted({way for way, vectors in ways if vectors})

    ours, stages, peaks_seen, *theirs = _in_turns(
        [
            _timed(lambda: core.detect(rgb, size=max(size_hw), score=SCORE, iou=DEFAULT_IOU, threads=threads)),
            lambda: [1e3 * s for s in core.stage_seconds(pixels, threads=threads)],
            lambda: [core.peak(way) for way in kinds],
            *others.values(),
        ],
        seconds,
    )
    peaks: dict[str, float] = dict(zip(kinds, np.max(peaks_seen, axis=0)))
    stage_ms = np.median(stages, axis=0)
    rows, columns = pixels.shape[:2]
    loaded = packed.load(path)
    network = integer.spec_of(loaded)  # its last layer has class channels, which the packed model has not
    counted = cost.count(network, (rows, columns)).layers
    places = rows * columns
    times = []
    for layer, stage, spec, ms, (way, vectors) in zip(counted, loaded.stages, network.layers, stage_ms, core.ways()):
        places //= stage.step**2
        macs, effective = (count * stage.filters // spec.filters for count in (layer.macs, layer.effective_macs))
        times.append(
            StageTime(
                name=layer.name,
                way=way,
                median_ms=float(ms),
                macs=macs,
                effective_macs=effective,
                gmacs_per_s=float(effective / ms / 1e6),
                share=float(ms / stage_ms.sum()),
                least_ms=places / 1024 * vectors / peaks[way] * 1e3 if peaks and vectors else None,
            )
        )
        places //= stage.pool**2
    least_ms = [stage.least_ms for stage in times if stage.least_ms is not None]
    return Bench(
        model=loaded.name,
        processor=processor(),
        isa=core.kernels,
        threads=threads,
        size=f"{size_hw[1]}x{size_hw[0]}",
        median_ms=float(np.median(ours)),
        min_ms=min(ours),
        repetitions=len(ours),
        stages=tuple(times),
        peers=_peer_times(ours, others, theirs),
        peaks=peaks,
        peak_share=sum(least_ms) / float(stage_ms.sum()) / threads if least_ms else None,
    )


class AnyDetector(Protocol):
    """What `measure_detector` needs of a detector: `dupnet.Detector`'s name and method."""

    name: str

    def detect(self, source: image.Source, *, size: int | None = None, score: float | None = None) -> Detections: ...


def measure_detector(
    detector: AnyDetector,
    size_hw: tuple[int, int] = (480, 640),
    *,
    threads: int = 1,
    photo: str | Path | None = None,
    peers: str | Path | None = None,
    peer_names: tuple[str, ...] = ("yunet_s",),
    seconds: float = 3.0,
) -> Bench:
    """Measure a detector that runs in torch, as a whole.

    Args:
        detector: used with its own suppression.
        threads: that the detector was given, and the peers get.
        size_hw, photo, peers, peer_names, seconds: as for `measure`.

    Raises:
        DataError: the peers cannot be loaded.

    Example:
        >>> from dupnet.nn.eresfd import EResFD, EResFDDetector    # doctest: +SKIP
        >>> measure_detector(EResFDDetector(EResFD())).median_ms    # doctest: +SKIP
        37.5
    """
    rgb = _photo(photo, size_hw)
    others = _peers(peers, peer_names, rgb, threads)
    detection = _timed(lambda: detector.detect(rgb, size=max(size_hw), score=SCORE))
    ours, *theirs = _in_turns([detection, *others.values()], seconds)
    return Bench(
        model=detector.name,
        processor=processor(),
        isa="torch",
        threads=threads,
        size=f"{size_hw[1]}x{size_hw[0]}",
        median_ms=float(np.median(ours)),
        min_ms=min(ours),
        repetitions=len(ours),
        stages=(),
        peers=_peer_times(ours, others, theirs),
        peaks={},
        peak_share=None,
    )


def _photo(photo: str | Path | None, size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    if photo:
        return image.resize(image.read(photo), size_hw)
    return np.random.default_rng(0).integers(0, 256, (*size_hw, 3), np.uint8)


def _in_turns(calls: Sequence[Callable[[], Any]], seconds: float) -> list[list[Any]]:
    """What each call gave, one after another until the time is up, three times at least. A first repetition warms up and is left out."""
    for call in calls:
        call()
    given: list[list[Any]] = [[] for _ in calls]
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop or len(given[0]) < 3:
        for call, results in zip(calls, given):
            results.append(call())
    return given


def _timed(call: Callable[[], object]) -> Callable[[], float]:
    """The call, giving the milliseconds that it took."""

    def milliseconds() -> float:
        start = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - start)

    return milliseconds


def _peers(folder: str | Path | None, names: Sequence[str], rgb: NDArray[np.uint8], threads: int) -> dict[str, Callable[[], float]]:
    """The time of a detection of each peer, by name."""

    def ready(name: str) -> Callable[[], float]:
        detect = load_peer(folder or ".", name, threads)
        return _timed(lambda: detect(rgb))

    return {name: ready(name) for name in names} if folder else {}


def _peer_times(ours: list[float], names: Iterable[str], theirs: list[list[float]]) -> tuple[PeerTime, ...]:
    median = float(np.median(ours))
    return tuple(PeerTime(name, float(np.median(ms)), median / float(np.median(ms))) for name, ms in zip(names, theirs))


def load_peer(folder: str | Path, name: str, threads: int) -> Callable[[NDArray[np.uint8]], object]:
    """A detector of `folder/peers.py`, ready to be called with a photo `(h, w, 3) uint8`.

    Raises:
        DataError: there is no such module, it knows no such detector, or what it needs is not installed.
    """
    if not (Path(folder) / "peers.py").is_file():
        raise DataError(f"{folder}: no file peers.py, which should have load(name, threads=, floor=)")
    sys.path.insert(0, str(Path(folder).resolve()))  # as of a program: it may import what lies beside it
    try:
        module = runpy.run_path(str(Path(folder) / "peers.py"))
        if "load" not in module:
            raise DataError(f"{folder}/peers.py: has no load(name, threads=, floor=)")
        detect: Callable[[NDArray[np.uint8]], object] = module["load"](name, threads=threads, floor=SCORE)
    except ModuleNotFoundError as error:
        raise DataError(f"{folder}/peers.py: {name} needs the module {error.name}, which is not installed") from None
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"{folder}/peers.py: {name} cannot be loaded: {type(error).__name__}: {error}") from None
    finally:
        with suppress(ValueError):  # peers.py may have changed the path, too
            sys.path.remove(str(Path(folder).resolve()))
    return detect
