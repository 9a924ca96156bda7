"""What the paper claims about its rows, and what a handful of runs can say about each claim.

The rule. A claim says that one row is better than another, or no worse than it by more than a margin. Runs that differ in nothing
but their seed scatter; their standard deviation `s` is pooled over all rows with several seeds. A difference of two rows' means over
`m` and `n` seeds has the standard error `s sqrt(1/m + 1/n)`; times Student's factor for 95% this gives the interval in which the true
difference lies. The claim holds if the whole interval is above minus the margin, it does not hold if the whole interval is below, and
otherwise the spread cannot tell. With 95%, one verdict in twenty goes wrong by chance.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

HOLDS, DOES_NOT, CANNOT_TELL = "holds", "does not hold", "the spread cannot tell"

NO_WORSE = 0.01
"""Margin of "costs nothing": the largest such loss that the paper itself calls none is 0.006 (a8w8, 4 copies); rounded up."""

STUDENT = (
    12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13, 2.12, 2.11, 2.10, 2.09, 2.09,
)  # fmt: skip
"""Factor of a two-sided 95% interval for 1, 2, ... degrees of freedom; beyond the table its last value, which is a little too wide."""


@dataclass(frozen=True)
class Claim:
    """`better` scores more than `worse`, or at least not less by more than `margin`. Rows are named as in `dupnet.paper`."""

    text: str
    better: str
    worse: str
    margin: float = 0.0


CLAIMS: dict[str, tuple[Claim, ...]] = {
    "table2": tuple(
        claim
        for precision in ("a2w1", "a2w2", "a4w4", "a8w8")
        for claim in (
            Claim(f"4 weight copies cost nothing ({precision})", f"table2/{precision}-4x", f"table2/{precision}-1x", NO_WORSE),
            Claim(f"8 weight copies cost accuracy ({precision})", f"table2/{precision}-4x", f"table2/{precision}-8x"),
        )
    ),
    "table3": (
        Claim("Quantizing Conv4 to Conv8 costs accuracy", "table3/float", "table3/conv4-8"),
        Claim("Quantizing Conv2 and Conv3 too costs accuracy", "table3/conv4-8", "table3/conv2-8"),
        Claim("Quantizing Conv1 too costs accuracy", "table3/conv2-8", "table3/conv1-8"),
        Claim("Quantizing Conv9 too costs little", "table3/conv1-9", "table3/conv1-8", NO_WORSE),
    ),
    "table4": (
        Claim("Duplicating the maps of Conv2 and Conv3 helps", "table4/conv2-3", "table4/none"),
        Claim("Those of Conv1 too help more", "table4/conv1-3", "table4/conv2-3"),
        Claim("Those of Conv9 too help more", "table4/conv1-3+9", "table4/conv1-3"),
    ),
    "table5": (
        Claim("Map copies in Conv2 and Conv3 beat more bits", "table5/maps-conv2-3", "table5/bits-conv2-3"),
        Claim("Map copies in Conv1 to Conv3 beat more bits", "table5/maps-conv1-3", "table5/bits-conv1-3"),
    ),
    "table6": (
        Claim("DupNet beats IFQ-Tinier-YOLO with a sixth of its weights", "table6/dupnet", "table6/ifq-tinier-yolo"),
        Claim("PACT helps DupNet", "table6/dupnet+pact", "table6/dupnet"),
        Claim("PACT helps DupNet-L", "table6/dupnet-l+pact", "table6/dupnet-l"),
        Claim("DupNet-L beats DupNet", "table6/dupnet-l", "table6/dupnet"),
        Claim("DupNet-L beats DupNet, both with PACT", "table6/dupnet-l+pact", "table6/dupnet+pact"),
        Claim("DupNet-L with PACT is as good as Tinier-YOLO in floats", "table6/dupnet-l+pact", "table6/tinier-yolo", NO_WORSE),
    ),
    "figure3": (
        Claim("2 weight copies cost nothing", "figure3/2x", "figure3/1x", NO_WORSE),
        Claim("4 weight copies cost nothing", "figure3/4x", "figure3/1x", NO_WORSE),
        Claim("8 weight copies cost accuracy", "figure3/4x", "figure3/8x"),
        Claim("Half the filters in Conv6 to Conv8 cost nothing", "figure3/1x", "table1/ifq-tinier-yolo", NO_WORSE),
    ),
    "figure4": tuple(
        Claim(f"{n} weight copies beat fewer filters of the same size", f"figure4/duplicated-{n}x", f"figure4/slim-{n}x") for n in (2, 4, 8)
    ),
    "eresfd-backbone": (
        Claim("Plain convolutions beat depthwise-separable ones of equal size", "eresfd-backbone/standard", "eresfd-backbone/separable"),
    ),
}
"""By table or figure. Source: DupNet, section 4; the last one: EResFD's abstract."""


@dataclass(frozen=True)
class Spread:
    """Standard deviation between seeds, pooled over rows, and the degrees of freedom that it rests on (0: nothing was repeated)."""

    deviation: float
    freedom: int


def pooled(repeats: Iterable[Sequence[float]]) -> Spread:
    """The spread of runs that differ in nothing but their seed; each sequence holds one row's values.

    Example:
        >>> spread = pooled([[0.5, 0.7], [0.3]])
        >>> round(spread.deviation, 3), spread.freedom
        (0.141, 1)
    """
    squares, freedom = 0.0, 0
    for values in repeats:
        if len(values) > 1:
            mean = fmean(values)
            squares += sum((value - mean) ** 2 for value in values)
            freedom += len(values) - 1
    return Spread(math.sqrt(squares / freedom) if freedom else math.nan, freedom)


@dataclass(frozen=True)
class Judgement:
    """A claim's measured difference (better minus worse; None if a row was not run), half its 95% interval, and the verdict."""

    claim: Claim
    difference: float | None
    half_width: float | None
    verdict: str


def half_width(spread: Spread, one: int, other: int) -> float:
    """Half the 95% interval of a difference of two rows with so many seeds; the spread must rest on some repeats."""
    factor = STUDENT[min(spread.freedom, len(STUDENT)) - 1]
    return factor * spread.deviation * math.sqrt(1 / one + 1 / other)


def judge(claim: Claim, values: Mapping[str, Sequence[float]], spread: Spread) -> Judgement:
    """Hold a claim against measured values, one a seed, by row name."""
    ours, theirs = values.get(claim.better, ()), values.get(claim.worse, ())
    if not ours or not theirs:
        return Judgement(claim, None, None, "not run")
    difference = fmean(ours) - fmean(theirs)
    if not spread.freedom:
        return Judgement(claim, difference, None, f"{CANNOT_TELL} (no row was run with two seeds)")
    half = half_width(spread, len(ours), len(theirs))
    verdict = CANNOT_TELL
    if difference - half > -claim.margin:
        verdict = HOLDS
    elif difference + half < -claim.margin:
        verdict = DOES_NOT
    return Judgement(claim, difference, half, verdict)
