"""The table of docs/models.md is what `dupnet.cost` counts. `python tests/docs/test_models.py` writes it anew."""

from __future__ import annotations

from pathlib import Path

from dupnet import cost, paper, zoo

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"
MARK = "checks that it is still true. -->\n"


def table() -> str:
    """Every row of the paper: our count, and what is printed."""
    lines = ["| name | model | KB of weights | MFLOPs at 608x608 | rate printed |", "|---|---|---|---|---|"]
    for row in paper.rows():
        total = cost.count(zoo.get(row.name)).total
        model = row.spec.replace(",", ", ") + (" (PACT)" if row.activation == "pact" else "")
        kilobytes = f"{total.weight_bytes / 1024:,.1f}" + (" (printed)" if row.weights_kb else "")
        mflops = f"{total.paper_mflops:,.1f}" + (" (printed)" if row.mflops else "")
        lines.append(f"| `{row.name}` | {model} | {kilobytes} | {mflops} | {row.detection_rate or '-'} |")
    return "\n".join(lines) + "\n"


def written() -> tuple[str, str, str]:
    """The page before the table, the table, and what follows."""
    before, mark, rest = PAGE.read_text().partition(MARK)
    lines = rest.lstrip("\n").splitlines(keepends=True)
    count = next((number for number, line in enumerate(lines) if not line.startswith("|")), len(lines))
    return before + mark + "\n", "".join(lines[:count]), "".join(lines[count:])


def test_the_table_is_what_is_counted() -> None:
    assert written()[1] == table(), "run python tests/docs/test_models.py"


if __name__ == "__main__":
    head, _, tail = written()
    PAGE.write_text(head + table() + tail)
