"""Option types that several verbs share."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click


class SizeHW(click.ParamType):  # type: ignore[type-arg]  # click before 8.5 has no type argument here
    """`640x480` (width x height) to `(480, 640)` (height, width)."""

    name = "WxH"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", str(value))
        if not match or 0 in (int(match[1]), int(match[2])):
            self.fail(f"expected width x height such as 640x480, found {value!r}", param, ctx)
        return int(match[2]), int(match[1])


class FiniteRange(click.FloatRange):
    """A range without `nan`, which compares as neither too small nor too large, and without infinity."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not in the range {self._describe_range()}.", param, ctx)
        return number


class Sizes(click.ParamType):  # type: ignore[type-arg]
    """`320,640` to `(320, 640)`: different long sides in pixels."""

    name = "N,N,..."

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        parts = str(value).split(",")
        sizes = tuple(int(part) for part in parts if re.fullmatch(r"\d{2,4}", part) and 32 <= int(part) <= 8192)
        if len(sizes) != len(parts) or len(set(sizes)) != len(sizes):
            self.fail(f"expected different long sides from 32 to 8192 such as 320,640, found {value!r}", param, ctx)
        return sizes


SIZE_HW = SizeHW()
FRACTION = FiniteRange(0, 1)

iou_option = click.option("--iou", type=FRACTION, help="Boxes that overlap more than this are one face.  [default: 0.45; EResFD: 0.3]")
"""None unless given: the value itself is the detector's `default_iou`."""


def view_options(command: Callable[..., None]) -> Callable[..., None]:
    """`--sizes`, `--flip` and `--vote`: more than one look at each photo (`dupnet.views`)."""
    for option in (
        click.option("--vote", is_flag=True, help="Merge the boxes of a face in all looks by voting instead of keeping the surest one."),
        click.option("--flip", is_flag=True, help="Look at each photo mirrored, too: twice the time."),
        click.option("--sizes", type=Sizes(), help="Look at each photo at several sizes instead of one: a pass for each."),
    ):
        command = option(command)
    return command


def chosen_sizes(size: int | None, sizes: tuple[int, ...] | None) -> tuple[int, ...]:
    """The long sides that `--size` or `--sizes` asks for; empty if neither does."""
    if size and sizes:
        raise click.UsageError("give --size or --sizes, not both")
    return sizes or ((size,) if size else ())


def run_options(command: Callable[..., None]) -> Callable[..., None]:
    """`--cache`, `--device`, `--threads`, `--workers` and `--compile`: how an experiment's training runs are executed."""
    for option in (
        click.option("--compile", is_flag=True, help="Fuse the networks with torch.compile."),
        click.option("--workers", type=click.IntRange(0, 64), default=1, show_default=True, help="Processes that load and augment."),
        click.option("--threads", type=click.IntRange(1, 256), help="Threads of the network on a CPU.  [default: all cores]"),
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."),
        click.option(
            "--cache", type=click.Path(file_okay=False, path_type=Path), help="Folder that keeps the photos decoded; loads faster."
        ),
    ):
        command = option(command)
    return command
