"""The paper's numbers and ours side by side, as markdown: a section for each table or figure, a line for each claim.

Written from finished runs, so that the same text comes out whoever asks and however often the runs were interrupted; only the times of
EResFD's backbones are measured for it, once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

from dupnet import cost, paper, zoo
from dupnet.errors import DataError
from dupnet.experiments import backbones, claims, runs
from dupnet.experiments.reproduction import MEASURES, Study, results, rows_of
from dupnet.experiments.runs import Measured
from dupnet.files import write_text
from dupnet.training import recipe as recipes

BEGIN, END = "<!-- results: begin (written by dupnet reproduce) -->", "<!-- results: end -->"

Results = Mapping[str, Sequence[Measured]]


def write(path: Path, text: str) -> None:
    """Write the text to a file, or, in a file that has the two marker lines, between them.

    Raises:
        DataError: the file exists and is no report.
    """
    before, after = around(path)
    write_text(path, f"{before}{BEGIN}\n\n{text}\n{END}{after}")


def around(path: Path) -> tuple[str, str]:
    """What stands before and behind the results in a report; of a new one, a title and nothing.

    Raises:
        DataError: the file exists and is no report.
    """
    if not path.exists():
        return "# Reproduction\n\n", "\n"
    try:
        before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a report: {error}") from None
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise DataError(f"{path}: exists and has no lines {BEGIN!r} and {END!r} between which results could be written")
    return before, after


def text(study: Study) -> str:
    """The whole report: how it was measured, then each table of which something was run."""
    named = rows_of(study.names)
    tables = list(dict.fromkeys(row.table for row in named))
    rows = list({row.name: row for table in tables for row in (*_rows(table), *named)}.values())
    found = results(study, rows)
    values = {
        name: [float(scores[study.measure]) for scores in scored if _is_number(scores.get(study.measure))] for name, scored in found.items()
    }
    by_run = {tuple(sorted(scores["key"] for scores in scored)): values[name] for name, scored in found.items()}
    spread = claims.pooled(by_run.values())  # rows that are one run count once
    judged = {table: [claims.judge(claim, values, spread) for claim in claims.CLAIMS.get(table, ())] for table in tables}
    parts = [_head(study, found, spread), _verdicts(judged)]
    for table in tables:
        parts.append(_backbones(study, found) if table == backbones.TABLE else _table(study, table, found))
        if judged[table]:
            parts.append(_claims(judged[table]))
    return "\n\n".join(parts) + "\n"


def _rows(table: str) -> Sequence[paper.Row]:
    return backbones.rows() if table == backbones.TABLE else paper.rows(table)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _head(study: Study, found: Results, spread: claims.Spread) -> str:
    scale = study.scale
    done = {scores["key"]: scores["run"] for scored in found.values() for scores in scored}
    devices = sorted({f"{run['machine']['device']}, torch {run['machine']['torch']}" for run in done.values()})
    hours = sum(run["seconds"] for run in done.values()) / 3600
    photos = next((scores["photos"] for scored in found.values() for scores in scored), None)
    noise = "not known: no row has two seeds yet."
    if spread.freedom:
        seeds = max(len(scored) for scored in found.values())
        noise = (
            f"{spread.deviation:.4f} ({spread.freedom} degrees of freedom). Two rows of {seeds} seeds each can be told apart where they "
            f"differ by more than {claims.half_width(spread, seeds, seeds):.3f}."
        )
    names = [backbones.RECIPES[scale.name] if row.table == backbones.TABLE else scale.recipe for row in rows_of(study.names)]
    lines = [
        f"Scale `{scale.name}`. {scale.about} Recipe {'; '.join(map(_recipe, dict.fromkeys(names)))}; between rows of one recipe nothing "
        "differs but model, activation and seed.",
        "",
        f"- Ours: {MEASURES[study.measure]}, photos scaled to {scale.size_px} pixels"
        + (f", {photos} photos of WIDER FACE val." if photos and not study.fddb else "."),
        "- The paper's: detection rate on FDDB at 284 false positives. "
        + ("" if study.fddb else "Another measure on other photos: compare differences between rows, never the numbers."),
        f"- Finished runs: {len(done)}, {hours:.1f} hours of training in all{'; ' + '; '.join(devices) if devices else ''}.",
        f"- Standard deviation between seeds, pooled over all rows: {noise}",
        f"- `ours` and `dr` are means over the seeds, ± their standard deviation. `dr`: {MEASURES['dr']}.",
        "- Verdicts: a difference's 95% interval (Student's factor times the pooled standard error) lies above the claim, below it, or "
        f'across; "costs nothing" allows a loss of {claims.NO_WORSE}. `dupnet.experiments.claims` has the rule.',
    ]
    return "\n".join(lines)


def _recipe(name: str) -> str:
    recipe = recipes.load(name)
    crops = f"{recipe.batch} crops of {recipe.augmentation.crop_px} pixels"
    return f"`{name}`: {recipe.steps:,} steps of {crops}, {recipe.optimizer.kind}"


def _verdicts(judged: Mapping[str, Sequence[claims.Judgement]]) -> str:
    """All verdicts in one place, and which tables nobody asked for: a reader should neither have to collect them nor miss one.

    Args:
        judged: the claims of each table of the report.
    """
    every = [one for ones in judged.values() for one in ones]
    lines = ["## Verdicts", ""]
    for verdict in dict.fromkeys((claims.HOLDS, claims.DOES_NOT, claims.CANNOT_TELL, *(one.verdict for one in every))):
        texts = {table: [one.claim.text for one in ones if one.verdict == verdict] for table, ones in judged.items()}
        line = f"- **{verdict[0].upper()}{verdict[1:]}**, {sum(map(len, texts.values()))} of {len(every)} claims."
        lines.append(" ".join([line, *(f"{_title(table)}: {'; '.join(found)}." for table, found in texts.items() if found)]))
    absent = dict.fromkeys(_title(row.table) for row in paper.rows() if row.table not in judged)
    if absent:
        lines.append(f"- **Not asked for**: {', '.join(absent)}.")
    return "\n".join(lines)


def _title(table: str) -> str:
    if table == backbones.TABLE:
        return "EResFD's backbone"
    return table.replace("table", "Table ").replace("figure", "Figure ")


def _table(study: Study, table: str, found: Results) -> str:
    lines = [f"## {_title(table)}", "", "| row | model | KB: ours, paper | MFLOPs: ours, paper | paper's rate | ours | dr | seeds |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for row in paper.rows(table):
        total, scored = cost.count(zoo.get(row.name)).total, found.get(row.name, ())
        cells = [
            f"`{row.name.partition('/')[2]}`",
            f"`{row.spec}`" + (" (PACT)" if row.activation == "pact" else ""),
            f"{total.weight_bytes / 1024:,.1f}, {row.weights_kb or '-'}",
            f"{total.paper_mflops:,.1f}, {row.mflops or '-'}",
            row.detection_rate or "-",
            _mean(scored, study.measure),
            _mean(scored, "dr"),
            str(len(scored)) if scored else "not run",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _backbones(study: Study, found: Results) -> str:
    """EResFD's experiment has no numbers of the paper beside it, but a time."""
    times = runs.measured(study.run.out / study.scale.name / "backbones-ms.json", backbones.milliseconds)
    height, width = backbones.SIZE_HW
    lines = [
        f"## {_title(backbones.TABLE)}",
        "",
        f"| row | parameters | million MACs at {width}x{height} | ms, one thread | ours | dr | seeds |",
    ]
    lines.append("|---|---|---|---|---|---|---|")
    for row in backbones.rows():
        parameters, macs = backbones.cost(row.name)
        scored = found.get(row.name, ())
        cells = [f"`{row.name.partition('/')[2]}`", f"{parameters:,}", f"{macs / 1e6:.1f}", f"{times[row.name]:.1f}"]
        cells += [_mean(scored, study.measure), _mean(scored, "dr"), str(len(scored)) if scored else "not run"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", "Times are medians of interleaved runs in torch."])


def _mean(scored: Sequence[Measured], measure: str) -> str:
    """Mean and, of several seeds, standard deviation."""
    values = [float(scores[measure]) for scores in scored if _is_number(scores.get(measure))]
    if not values:
        return "-"
    return f"{fmean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def _claims(judged: Sequence[claims.Judgement]) -> str:
    lines = ["| claim | paper | ours | verdict |", "|---|---|---|---|"]
    for one in judged:
        ours = "-" if one.difference is None else f"{one.difference:+.3f}"
        ours += f" ± {one.half_width:.3f}" if one.half_width is not None else ""
        lines.append(f"| {one.claim.text} | {_papers_difference(one.claim)} | {ours} | {one.verdict} |")
    return "\n".join(lines)


def _papers_difference(claim: claims.Claim) -> str:
    rates = [row.detection_rate if (row := paper.row(name)) else "" for name in (claim.better, claim.worse)]
    return f"{float(rates[0]) - float(rates[1]):+.3f}" if all(rates) else "drawn, not printed"
