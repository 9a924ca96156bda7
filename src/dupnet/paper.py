"""What the DupNet paper prints, as data: which spec each row of its tables and figures is about, and its numbers.

The numbers are the paper's claims, never ours; `dupnet.cost` is tested against the sizes and operation counts among them.
Before this module: `paper.toml`, typed from the paper. After it: `dupnet.zoo`, which knows the rows by name.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from dupnet import checked
from dupnet.errors import SpecError


@dataclass(frozen=True)
class Row:
    """One row (or one bar of a figure). Numbers are texts, in the digits that are printed; "" where the paper prints none.

    Attributes:
        name: table or figure and row, such as `table4/conv2-3`; `dupnet.zoo.get` knows it.
        spec: the model, as `dupnet.zoo.get` reads it. Rows about one model have equal texts here.
        weights_kb: model size in KB of 1,024 bytes.
        mflops: the paper's FLOPs in millions, at 608x608 pixels.
        detection_rate: on FDDB at 284 false positives.
        activation: the activations' quantizer, `NetworkOptions.activation`.
        note: what else is said of it.
    """

    name: str
    spec: str
    weights_kb: str = ""
    mflops: str = ""
    detection_rate: str = ""
    activation: Literal["hwgq", "pact"] = "hwgq"
    note: str = ""

    @property
    def table(self) -> str:
        """`table1` to `table6`, `figure3` or `figure4`."""
        return self.name.partition("/")[0]


@dataclass(frozen=True)
class LayerRow:
    """One layer of Table 1."""

    name: str
    weights_kb: str
    mflops: str


@dataclass(frozen=True)
class _Paper:
    rows: tuple[Row, ...]
    table1_layers: tuple[LayerRow, ...]


@cache
def _paper() -> _Paper:
    found: _Paper = checked.build(_Paper, tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")))
    return found


def rows(table: str | None = None) -> tuple[Row, ...]:
    """The rows of one table or figure, or of all, in the paper's order.

    Raises:
        SpecError: no such table; the message lists them.

    Example:
        >>> [row.name for row in rows("table4")]
        ['table4/none', 'table4/conv2-3', 'table4/conv1-3', 'table4/conv1-3+9']
    """
    found = tuple(row for row in _paper().rows if table in (None, row.table))
    if not found:
        raise SpecError(f"the paper has no {table!r} of models; it has {', '.join(dict.fromkeys(row.table for row in _paper().rows))}")
    return found


def row(name: str) -> Row | None:
    """The row of that name, or None."""
    return next((row for row in _paper().rows if row.name == name), None)


def table1_layers() -> tuple[LayerRow, ...]:
    """Table 1 by layers, its slip included (see `paper.toml`)."""
    return _paper().table1_layers
