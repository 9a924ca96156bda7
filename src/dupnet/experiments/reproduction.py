"""The paper's tables and figures as experiments: which runs a table needs, at which scale, and what they gave.

Before: `dupnet.paper` (the rows and the paper's numbers), `dupnet.experiments.runs` (one run). After: `dupnet.experiments.report`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from dupnet import paper
from dupnet.data import fddb, wider
from dupnet.errors import DupnetError, SpecError
from dupnet.evaluation import wider as wider_protocol
from dupnet.experiments import backbones, runs
from dupnet.experiments.claims import CLAIMS
from dupnet.experiments.runs import Measured
from dupnet.nn import checkpoint
from dupnet.training import loop
from dupnet.training import recipe as recipes
from dupnet.training.recipe import Recipe


@dataclass(frozen=True)
class Scale:
    """How large the experiments are.

    Attributes:
        name: of the scale.
        recipe: the recipe that every row is trained by, in nothing different but the row's model, its activation and the seed.
        size_px: long side of the photos when a network is measured.
        measure: the WIDER score that verdicts rest on if no FDDB is at hand.
        about: one sentence for the report.
    """

    name: str
    recipe: str
    size_px: int
    measure: str
    about: str


SCALES = {
    scale.name: scale
    for scale in (
        Scale("tiny", "tiny", 96, "ap_all", "A smoke test: it shows that the machinery works and says nothing about the claims."),
        Scale("small", "small", 208, "ap_easy", "Small crops and few of them: minutes a run on two cores, instead of days."),
        Scale("paper", "paper", 608, "ap_medium", "The paper's schedule."),
    )
}

MEASURES = {
    "fddb": "detection rate on FDDB at 284 false positives",
    "ap_easy": "AP easy",
    "ap_medium": "AP medium",
    "ap_all": "AP of all faces",
    "dr": "detection rate of the medium faces at 0.1 false positives a photo",
}

SEEDS_LOOKED_FOR = 20
"""A report shows finished runs of the seeds 1 to this."""


@dataclass(frozen=True)
class Job:
    """One training run and the rows that it stands for."""

    key: str
    recipe: Recipe
    rows: tuple[str, ...]


@dataclass(frozen=True)
class Study:
    """What to reproduce, on what, where to.

    Attributes:
        names: tables, figures, single rows (`table6/dupnet`), or `all`.
        scale: how large.
        run: data set, cache, device, ...; `out` is the folder of the whole study.
        fddb: folder of FDDB's photos and annotations, or None.
    """

    names: tuple[str, ...]
    scale: Scale
    run: loop.Run
    fddb: Path | None = None

    @property
    def measure(self) -> str:
        """The key of `MEASURES` that verdicts rest on."""
        return "fddb" if self.fddb else self.scale.measure

    def folder(self, key: str) -> Path:
        """Of one run."""
        return self.run.out / self.scale.name / key


def rows_of(names: Sequence[str]) -> list[paper.Row]:
    """The rows that names stand for, and those that claims about their tables compare with, each once.

    Raises:
        SpecError: no such table or row; lists the tables.
    """
    found: dict[str, paper.Row] = {}
    tables = [*dict.fromkeys(row.table for row in paper.rows()), backbones.TABLE, "all"]
    for name in names:
        if row := paper.row(name):
            found[row.name] = row
            continue
        if name not in tables:
            raise SpecError(f"no table {name!r} to reproduce; there are {', '.join(tables)}, and single rows such as table6/dupnet")
        for row in backbones.rows() if name == backbones.TABLE else paper.rows(None if name == "all" else name):
            found[row.name] = row
        for claim in CLAIMS.get(name, ()):
            found |= {row.name: row for other in (claim.better, claim.worse) if (row := paper.row(other))}
    return list(found.values())


@cache
def _recipe(name: str) -> Recipe:
    return recipes.load(name)


def job_of(row: paper.Row, scale: Scale, seed: int, data: Path) -> Job:
    """The run of one row and seed."""
    if row.table == backbones.TABLE:
        recipe = replace(_recipe(backbones.RECIPES[scale.name]), spec=backbones.SPECS[row.name])
    else:
        recipe = recipes.with_model(_recipe(scale.recipe), spec=row.name)
    key, recipe = runs.keyed(replace(recipe, seed=seed), data)
    return Job(key, recipe, (row.name,))


def plan(study: Study, seeds: Sequence[int]) -> list[Job]:
    """All runs, each once: the first seed of every row before the second of any."""
    jobs: dict[str, Job] = {}
    for seed in seeds:
        for row in rows_of(study.names):
            job = job_of(row, study.scale, seed, study.run.data)
            known = jobs.get(job.key)
            jobs[job.key] = replace(known, rows=known.rows + job.rows) if known else job
    return list(jobs.values())


def check(study: Study) -> None:
    """Fail before the hours of training, not behind them: everything that measuring will need is there.

    Raises:
        SpecError, DataError: what is missing.
    """
    rows_of(study.names)
    wider.annotations_key(study.run.data, "train")
    wider_protocol.data_set(study.run.data)
    study.run.torch_device()
    if study.fddb:
        import scipy.optimize  # noqa: F401

        photos = fddb.read(study.fddb)
        fddb.photo_folder(study.fddb, photos)
        fddb.sizes(study.fddb, photos)


def is_done(study: Study, job: Job) -> bool:
    """Whether a run is trained and measured."""
    folder = study.folder(job.key)
    return runs.is_trained(folder) and all(path.exists() for path in _score_files(study, folder).values())


def _score_files(study: Study, folder: Path) -> dict[str, Path]:
    size = study.scale.size_px
    files = {"wider": runs.wider_file(folder, study.run.data, size)}
    return files | ({"fddb": runs.fddb_file(folder, study.fddb, size)} if study.fddb else {})


def estimate(study: Study, jobs: Sequence[Job]) -> float:
    """Seconds that the given runs will take, from measured training steps of each model; without compiling, loading and measuring."""
    device = study.run.torch_device()
    seconds: dict[str, float] = {}  # of a step, by row: its seeds take equally long
    for job in jobs:
        if job.rows[0] not in seconds:
            seconds[job.rows[0]] = runs.seconds_per_step(job.recipe, device)
    return sum(job.recipe.steps * seconds[job.rows[0]] for job in jobs)


def execute(study: Study, jobs: Sequence[Job], *, say: Callable[[str], None], progress: bool, report: Callable[[], None]) -> None:
    """Do what is not done. Runs that another process works on are left to it.

    Args:
        study: where and how.
        jobs: from `plan`.
        say: takes a line about what happens.
        progress: show a bar for each run.
        report: called after each run.

    Raises:
        DupnetError: a run diverged; raised after all others are done.
    """
    open_jobs = [job for job in jobs if not is_done(study, job)]
    say(f"{len(jobs)} runs, {len(jobs) - len(open_jobs)} of them finished before; {study.run.out}")
    if not open_jobs:
        return
    expected = estimate(study, open_jobs)
    say(
        f"about {runs.duration(expected)} of training for the other {len(open_jobs)}, by 3 steps of each model without compiling or loading"
    )
    start, trained, failed = time.monotonic(), 0, []
    for number, job in enumerate(open_jobs, 1):
        folder = study.folder(job.key)
        with runs.claimed(folder) as mine:
            if not mine:
                say(f"[{number}/{len(open_jobs)}] {job.key}: another process is at work on it")
                continue
            state = "goes on" if (folder / "checkpoint.pt").exists() else "starts"
            say(f"[{number}/{len(open_jobs)}] {', '.join(job.rows)}, seed {job.recipe.seed} ({job.key}) {state}")
            try:
                runs.train(job.recipe, replace(study.run, out=folder), progress=progress)
            except DupnetError as error:
                if type(error) is not DupnetError:  # what is wrong with data or files is wrong for every run
                    raise
                failed.append(f"{job.rows[0]}, seed {job.recipe.seed} ({error})")
                say(f"    failed: {error}")
                continue
            scores = measure(study, job, progress=progress)
        trained += 1
        each, left = (time.monotonic() - start) / trained, len(open_jobs) - number
        numbers = ", ".join(
            f"{key} {value:.3f}" for key, value in scores.items() if isinstance(value, float) and not key.startswith("exact_")
        )
        say(f"    {numbers}; {left} runs left, about {runs.duration(left * each)}")
        report()
    if failed:
        raise DupnetError(f"{len(failed)} of {len(open_jobs)} runs failed: {'; '.join(failed)}")


def measure(study: Study, job: Job, *, progress: bool = False) -> Measured:
    """All scores of a finished run; measured unless they are there already."""
    folder, size = study.folder(job.key), study.scale.size_px
    files = _score_files(study, folder)

    def network() -> Any:
        return checkpoint.load_any(folder / "network.pt")

    scores = runs.measured(files["wider"], lambda: runs.wider_scores(network(), study.run.data, size, progress=progress))
    if root := study.fddb:
        scores |= runs.measured(files["fddb"], lambda: runs.fddb_scores(network(), root, size, progress=progress))
    return scores


def results(study: Study, rows: Sequence[paper.Row]) -> dict[str, list[Measured]]:
    """What finished runs gave, by row name: one entry a seed, each with its seed and its run's description."""
    found: dict[str, list[Measured]] = {}
    for row in rows:
        for seed in range(1, SEEDS_LOOKED_FOR + 1):
            job = job_of(row, study.scale, seed, study.run.data)
            if is_done(study, job):
                run = runs.measured(study.folder(job.key) / "run.json", lambda: {})
                found.setdefault(row.name, []).append(measure(study, job) | {"seed": seed, "key": job.key, "run": run})
    return found


def scale_of(name: str) -> Scale:
    """The scale of that name.

    Raises:
        SpecError: no such scale; lists them.
    """
    if name not in SCALES:
        raise SpecError(f"no scale {name!r}; there are {', '.join(SCALES)}")
    return SCALES[name]
