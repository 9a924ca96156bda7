"""Whether a training repeats a curve: two of the `metrics.csv` that `dupnet train` writes, row by row.

    dupnet train mean-close-up --data FACES --cache cache --compile --precision mixed --start-from models/mean-close-up.pt --stop-at 260
    python benchmarks/same_curve.py models/curves/mean-close-up.csv runs/mean-close-up/metrics.csv

Equal are all numbers but the times. Where they are not, as with other sums of floats (another CPU, number of threads or precision), the
mean difference of each column over the common rows tells, with its standard error: the crops are the same, so noise is what is left.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from pathlib import Path

TIMES = {"seconds", "images_per_s"}


def read(path: Path) -> dict[int, dict[str, str]]:
    """Rows by step, without the times."""
    with open(path, newline="") as file:
        return {int(row["step"]): {name: text for name, text in row.items() if name not in TIMES} for row in csv.DictReader(file)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("theirs", type=Path, metavar="CURVE", help="what is to be repeated")
    parser.add_argument("ours", type=Path, metavar="METRICS", help="what repeats it, or the beginning of it")
    options = parser.parse_args()
    theirs, ours = read(options.theirs), read(options.ours)
    steps = sorted(theirs.keys() & ours.keys())
    if not steps:
        parser.error(f"{options.theirs} and {options.ours} have no step in common")
    columns = [name for name in theirs[steps[0]] if name in ours[steps[0]]]  # the oldest curves lack the last one
    other = [step for step in steps if any(theirs[step][name] != ours[step][name] for name in columns)]
    print(f"steps {steps[0]} to {steps[-1]} of {max(theirs)}: {len(steps) - len(other)} of {len(steps)} rows equal to every digit")
    if other:
        print(f"the first that differs is that of step {other[0]}")
        for name in columns[3:]:
            old, new = ([float(rows[step][name]) for step in steps] for rows in (theirs, ours))
            differences = [b - a for a, b in zip(old, new)]
            error = f" ± {statistics.stdev(differences) / len(steps) ** 0.5:.4f}" if len(steps) > 1 else ""
            means = f"{statistics.mean(old):.4f} and {statistics.mean(new):.4f}"
            print(f"{name}: {means}, difference {statistics.mean(differences):+.4f}{error}")


if __name__ == "__main__":
    main()
