"""Option types that several verbs share."""

from __future__ import annotations

import math
import re
from typing import Any

import click


class SizeHW(click.ParamType):  # type: ignore[type-arg]  # click before 8.5 has no type argument here
    """`640x480` (width x height) to `(480, 640)` (height, width)."""

    name = "WxH"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", str(value))
        if not match or "0" in (match[1], match[2]):
            self.fail(f"expected width x height such as 640x480, found {value!r}", param, ctx)
        return int(match[2]), int(match[1])


class Fraction(click.FloatRange):
    """A number from 0 to 1. `nan`, which compares as neither too small nor too large, is none."""

    def __init__(self) -> None:
        super().__init__(0, 1)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value} is not in the range 0<=x<=1.", param, ctx)
        return number


SIZE_HW = SizeHW()
FRACTION = Fraction()

iou_option = click.option("--iou", type=FRACTION, help="Boxes that overlap more than this are one face.  [default: 0.45]")
"""None unless given: the value itself is `dupnet.runtime.DEFAULT_IOU`."""
