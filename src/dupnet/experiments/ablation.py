"""Ideas for a recipe, each alone against the same baseline: what it gains, what it costs, and whether the spread lets one say so.

The ideas are data, a TOML file:

    recipe = "anneal"                       # a recipe's name or file
    size_px = 416                           # long side of the photos when a network is measured
    [baseline]                              # how every run differs from that recipe
    steps = 1200
    [ideas.hard-targets]                    # how the runs of this idea differ from the baseline
    loss.objectness_floor = 1.0

An idea may change any key of a recipe, and several at once, but for the seed: that is what its runs differ in.
Before: `dupnet.experiments.runs` (one run) and `dupnet.experiments.claims` (the rule of the spread).
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from dupnet.detections import MAX_SIZE_PX, MIN_SIZE_PX
from dupnet.errors import DupnetError, SpecError
from dupnet.experiments import claims, runs
from dupnet.experiments.runs import Measured
from dupnet.nn import checkpoint
from dupnet.training import loop
from dupnet.training import recipe as recipes
from dupnet.training.recipe import Recipe

BASELINE = "baseline"

MEASURES = {"ap_easy": "AP easy", "ap_medium": "AP medium", "ap_hard": "AP hard", "dr": "`dr`"}
"""What a run is measured by; None where the photos do not show it (no easy face, say)."""

DECISIVE: dict[str, tuple[str, ...]] = {"AP": ("ap_easy", "ap_medium", "ap_hard"), "`dr`": ("dr",)}
"""What verdicts rest on, each the mean of some measures. The detection rate of the medium faces at 0.1 false positives a photo counts in
the end, but on some 500 photos it hangs on 50 boxes; average precisions scatter less."""


@dataclass(frozen=True)
class Ablation:
    """The recipe of each idea, with the baseline's first; and the long side of the photos that the networks are measured on."""

    recipes: dict[str, Recipe]
    changes: dict[str, str]
    size_px: int


def load(path: Path) -> Ablation:
    """Read a file of ideas.

    Raises:
        SpecError: it cannot be read, or an idea is no change of a recipe; the message names the idea.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SpecError(f"{path}: cannot be read as a file of ideas: {error}") from None
    if unknown := sorted(table.keys() - {"recipe", "size_px", BASELINE, "ideas"}):
        raise SpecError(f"{path}: unknown key {unknown[0]!r} (known: recipe, size_px, {BASELINE}, ideas)")
    name, size, ideas = table.get("recipe"), table.get("size_px", 416), table.get("ideas", {})
    if not isinstance(name, str) or not isinstance(ideas, dict) or not all(isinstance(change, dict) for change in ideas.values()):
        raise SpecError(f"{path}: needs recipe (a name), and wants every idea to be a table")
    if not isinstance(table.get(BASELINE, {}), dict):
        raise SpecError(f"{path}: {BASELINE} must be a table, not {table[BASELINE]!r}")
    if type(size) is not int or not MIN_SIZE_PX <= size <= MAX_SIZE_PX:
        raise SpecError(f"{path}: size_px must be a whole number of {MIN_SIZE_PX} to {MAX_SIZE_PX} pixels, not {size!r}")
    if BASELINE in ideas:
        raise SpecError(f"{path}: an idea cannot be called {BASELINE!r}")
    found = {BASELINE: changed(recipes.load(name), table.get(BASELINE, {}), source=f"{path}: [{BASELINE}]")}
    for idea, change in ideas.items():
        if "seed" in change:
            raise SpecError(f"{path}: [ideas.{idea}]: a seed is no idea; all are run with the seeds 1, 2, ... (--seeds)")
        recipe = changed(found[BASELINE], change, source=f"{path}: [ideas.{idea}]")
        if same := [other for other, known in found.items() if known == recipe]:
            raise SpecError(f"{path}: [ideas.{idea}]: changes nothing, it is the recipe of {same[0]!r}")
        found[idea] = recipe
    return Ablation(found, {idea: _words(change) for idea, change in ideas.items()}, size)


def changed(recipe: Recipe, change: dict[str, Any], *, source: str) -> Recipe:
    """A recipe with some of its keys changed; tables are merged key by key.

    Example:
        >>> changed(recipes.load("anneal"), {"loss": {"focal": 2}, "batch": 32}, source="example").loss.focal
        2.0
    """
    return recipes.from_dict(recipes.merged(recipes.to_dict(recipe), change), source=source)


def _words(change: dict[str, Any], prefix: str = "") -> str:
    """A change as one line, `loss.focal = 2, batch = 32`."""
    parts = [_words(value, f"{prefix}{key}.") if isinstance(value, dict) else f"{prefix}{key} = {value}" for key, value in change.items()]
    return ", ".join(parts)


def execute(ablation: Ablation, run: loop.Run, seeds: Sequence[int], *, say: Callable[[str], None], report: Callable[[], object]) -> None:
    """Train and measure what is not there yet: the first seed of all ideas before the second of any.

    Args:
        ablation: from `load`.
        run: data set, cache, device, ...; `out` is the folder of all runs.
        seeds: of the runs.
        say: takes a line about what happens.
        report: called after each run.

    Raises:
        DupnetError: a run diverged; raised after all others are done.
    """
    failed = []
    for seed in seeds:
        for idea in ablation.recipes:
            key, recipe = runs.keyed(replace(ablation.recipes[idea], seed=seed), run.data)
            with runs.claimed(run.out / key) as mine:
                if not mine:
                    say(f"{idea}, seed {seed}: another process is at work on it")
                    continue
                if runs.wider_file(run.out / key, run.data, ablation.size_px).exists():
                    continue
                try:
                    runs.train(recipe, replace(run, out=run.out / key))
                except DupnetError as error:
                    if type(error) is not DupnetError:  # what is wrong with data or files is wrong for every run
                        raise
                    failed.append(f"{idea}, seed {seed} ({error})")
                    say(f"{idea}, seed {seed}: failed: {error}")
                    continue
                scores = _scores(run.out / key, ablation, run)
            say(f"{idea}, seed {seed}: " + ", ".join(f"{name} {scores[name]:.3f}" for name in MEASURES if scores[name] is not None))
            report()
    if failed:
        raise DupnetError(f"{len(failed)} runs failed: {'; '.join(failed)}")


def _scores(folder: Path, ablation: Ablation, run: loop.Run) -> Measured:
    return runs.measured(
        runs.wider_file(folder, run.data, ablation.size_px),
        lambda: runs.wider_scores(checkpoint.load_any(folder / "network.pt"), run.data, ablation.size_px),
    )


def results(ablation: Ablation, run: loop.Run, seeds: Sequence[int]) -> dict[str, list[Measured]]:
    """What finished runs gave: by idea one entry a seed, with the run's seconds."""
    found: dict[str, list[Measured]] = {}
    for idea, recipe in ablation.recipes.items():
        for seed in seeds:
            folder = run.out / runs.keyed(replace(recipe, seed=seed), run.data)[0]
            if runs.wider_file(folder, run.data, ablation.size_px).exists() and runs.is_trained(folder):
                seconds = runs.measured(folder / "run.json", dict)["seconds"]
                found.setdefault(idea, []).append(_scores(folder, ablation, run) | {"seconds": seconds})
    return found


def text(ablation: Ablation, found: dict[str, list[Measured]]) -> str:
    """The table in markdown: every idea's means, its gains over the baseline with half their 95% intervals, its time, the verdict."""
    values: dict[str, dict[str, list[float]]] = {
        name: {idea: [mean for row in rows if (mean := _mean(row[part] for part in parts)) is not None] for idea, rows in found.items()}
        for name, parts in DECISIVE.items()
    }
    spreads = {name: claims.pooled(of_ideas.values()) for name, of_ideas in values.items()}
    base = found.get(BASELINE, [])
    head = ["idea", "change", "runs", *MEASURES.values(), *(f"gain of {name}" for name in DECISIVE), "time", "verdict"]
    lines = [head, ["---"] * len(head)]
    for idea, rows in found.items():
        means = [runs.shown(_mean(row[name] for row in rows)) for name in MEASURES]
        end = [""] * (len(DECISIVE) + 2)
        if idea != BASELINE and base:
            claim = claims.Claim(idea, better=idea, worse=BASELINE)
            judged = [claims.judge(claim, values[name], spreads[name]) for name in DECISIVE]
            gains = [
                runs.shown(one.difference, "+.3f") + (f" ± {one.half_width:.3f}" if one.half_width is not None else "") for one in judged
            ]
            time = fmean(row["seconds"] for row in rows) / max(fmean(row["seconds"] for row in base), 0.1)  # 0.0 s: a run of a few steps
            end = [*gains, f"{time:.2f}", _verdict([one.verdict for one in judged if one.difference is not None])]
        lines.append([idea, ablation.changes.get(idea, ""), str(len(rows)), *means, *end])
    deviations = ", ".join(f"{spread.deviation:.4f} of {name}" for name, spread in spreads.items() if spread.freedom)
    about = f"Standard deviation between seeds, pooled: {deviations}.\n" if deviations else ""
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + f"\n\n{about}"


def _mean(values: Iterable[float | None]) -> float | None:
    """The mean of what was measured; None if nothing was, or if one of several could not be."""
    every = list(values)
    known = [value for value in every if value is not None]
    return fmean(known) if known and len(known) == len(every) else None


def _verdict(verdicts: list[str]) -> str:
    """One word for all decisive measures that there are: a gain in one is a help unless another loses."""
    if not verdicts:
        return "not measured"
    helps, harms = claims.HOLDS in verdicts, claims.DOES_NOT in verdicts
    if helps and harms:
        return "helps one, harms the other"
    return "helps" if helps else "harms" if harms else verdicts[0]
