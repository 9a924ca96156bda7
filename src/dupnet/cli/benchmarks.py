"""The benchmarks that `dupnet evaluate` knows, each as the same few functions."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dupnet.evaluation import Detect
    from dupnet.evaluation.outcome import Outcome


@dataclass(frozen=True)
class Benchmark:
    """Photos, their faces and the rules. What is `found` is whatever `run` and `read` return.

    Attributes:
        where: which photos of what, for people.
        title: the same for plots and reports.
        images: the folder that the photos' paths are relative to.
        about: what a report says of the data and the rules.
        heading: of the table of numbers.
        run: what a detector finds in the photos.
        read: what another detector found, from its files.
        score: the numbers of JSON, and a row of the table.
        outcome: what happened to each face, by the detector's name.
        write: leaves what was found in a folder, in the benchmark's own format.
    """

    where: str
    title: str
    images: Path
    about: dict[str, str]
    heading: str
    run: Callable[[Detect], Any]
    read: Callable[[Path], Any]
    score: Callable[[Any], tuple[dict[str, Any], str]]
    outcome: Callable[[str, Any], Outcome]
    write: Callable[[Path, Any], None]


def open_wider(root: Path, split: str) -> Benchmark:
    """WIDER FACE, or what of its photos is in the folder."""
    from dupnet.evaluation import predictions
    from dupnet.evaluation import wider as protocol

    samples, difficulty, images = protocol.data_set(root, split)
    listed = len(protocol.ground_truth(root, split)[0])
    inclusive = protocol.is_inclusive(samples)
    photos = [sample.photo for sample in samples]
    number = f"{len(photos):,}" if len(photos) == listed else f"{len(photos):,} of the {listed:,}"

    def score(found: Any) -> tuple[dict[str, Any], str]:
        scores = protocol.score(samples, difficulty, found)
        ap = f"{scores.ap_easy:7.3f}  {scores.ap_medium:9.3f}  {scores.ap_hard:7.3f}  {scores.ap_all:6.3f}"
        return asdict(scores) | {"listed": listed}, f"{ap}  {scores.dr:.3f}"

    edges = "pixels (1 is added to widths and heights)" if inclusive else "edges (nothing is added)"
    return Benchmark(
        where=f"{number} photos of {root} ({split})",
        title=f"Face detection on {number} photos of {root.resolve().name} ({split})",
        images=images,
        about={
            "Data set": f"{root}, split {split}",
            "Photos": number,
            "Rules": f"those of WIDER FACE's evaluation, on these photos only; a box finds a face at IoU 0.5; coordinates are {edges}",
        },
        heading="AP easy  AP medium  AP hard  AP all  DR at 0.1 false positives a photo",
        run=lambda detect: protocol.run(detect, samples, images, progress=sys.stderr.isatty()),
        read=lambda tree: predictions.read_wider(tree, photos),
        score=score,
        outcome=lambda name, found: protocol.outcome(name, samples, difficulty, found),
        write=lambda folder, found: predictions.write_wider(folder, photos, found),
    )


def open_fddb(root: Path) -> Benchmark:
    """FDDB, all ten folds."""
    from dupnet.cli.fddb_score import numbers
    from dupnet.data import fddb as data
    from dupnet.evaluation import fddb, predictions

    photos = data.read(root)
    images = data.photo_folder(root, photos)
    sizes = data.sizes(root, photos)

    def score(found: Any) -> tuple[dict[str, Any], str]:
        scores = fddb.score(photos, sizes, found)
        row = f"{scores.discrete_rate():15.6f}  {scores.continuous_rate():17.6f}  {scores.false_positives.max(initial=0):19,}"
        return numbers(scores), row

    def write(folder: Path, found: Any) -> None:
        predictions.write_fddb(folder, photos, found)
        fddb.write_curves(fddb.score(photos, sizes, found), folder)

    return Benchmark(
        where=f"{len(photos):,} photos of {root} (FDDB, ten folds)",
        title=f"Face detection on FDDB, {len(photos):,} photos",
        images=images,
        about={
            "Data set": f"{root}, FDDB's ten folds",
            "Photos": f"{len(photos):,}",
            "Rules": "those of FDDB's official program; a detection finds a face if they share more than half of their pixels",
        },
        heading=f"Discrete at {fddb.FALSE_POSITIVES}  Continuous at {fddb.FALSE_POSITIVES}  All false positives",
        run=lambda detect: fddb.run(detect, photos, images, progress=sys.stderr.isatty()),
        read=lambda path: predictions.read_fddb(path, photos),
        score=score,
        outcome=lambda name, found: fddb.outcome(name, photos, sizes, found),
        write=write,
    )
