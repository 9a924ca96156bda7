"""Option types that several verbs share."""

from __future__ import annotations

import re

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


SIZE_HW = SizeHW()
