"""The rule of verdicts, on numbers made up for it."""

from __future__ import annotations

import math

import pytest

from dupnet import paper
from dupnet.experiments import backbones, claims
from dupnet.experiments.claims import CANNOT_TELL, DOES_NOT, HOLDS, Claim, judge, pooled

BETTER = Claim("a beats b", "a", "b")
NO_WORSE = Claim("a costs nothing", "a", "b", 0.01)


def test_the_spread_is_pooled_over_rows() -> None:
    spread = pooled([[0.50, 0.52], [0.30, 0.32, 0.34], [0.9]])
    assert spread.freedom == 3 and spread.deviation == pytest.approx(math.sqrt((0.0002 + 0.0008) / 3))
    assert pooled([[0.1], [0.2]]).freedom == 0


@pytest.mark.parametrize(
    ("claim", "a", "verdict"),
    [
        (BETTER, 0.60, HOLDS),
        (BETTER, 0.40, DOES_NOT),
        (BETTER, 0.505, CANNOT_TELL),
        (NO_WORSE, 0.53, HOLDS),
        (NO_WORSE, 0.50, CANNOT_TELL),
        (NO_WORSE, 0.46, DOES_NOT),
    ],
)
def test_verdicts(claim: Claim, a: float, verdict: str) -> None:
    spread = claims.Spread(0.01, 4)  # factor 2.78, two seeds each: half a width of 0.0278
    judged = judge(claim, {"a": [a - 0.001, a + 0.001], "b": [0.5, 0.5]}, spread)
    assert judged.verdict == verdict and judged.half_width == pytest.approx(0.0278) and judged.difference == pytest.approx(a - 0.5)


def test_nothing_is_claimed_without_runs_or_repeats() -> None:
    assert judge(BETTER, {"a": [0.9]}, claims.Spread(0.01, 4)).verdict == "not run"
    alone = judge(BETTER, {"a": [0.9], "b": [0.1]}, pooled([[0.9], [0.1]]))
    assert alone.verdict.startswith(CANNOT_TELL) and alone.half_width is None


def test_claims_are_about_rows_of_the_paper_and_agree_with_its_numbers() -> None:
    for table, listed in claims.CLAIMS.items():
        for claim in listed:
            ours = {row.name: row for row in backbones.rows()}
            better, worse = (paper.row(name) or ours.get(name) for name in (claim.better, claim.worse))
            assert better is not None and worse is not None and table in (better.table, worse.table)
            if better.detection_rate and worse.detection_rate:
                difference = float(better.detection_rate) - float(worse.detection_rate)
                assert difference > -claim.margin, claim.text
