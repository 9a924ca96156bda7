"""`dupnet zoo` and `dupnet cost`: names in, tables and TOML out."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from dupnet import paper, spec, zoo
from dupnet.cli import main


def run(*arguments: str) -> str:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_list_has_every_model_and_row() -> None:
    first = [line.split()[0] for line in run("zoo").splitlines()[1:]]
    assert first == [*zoo.names(), *(row.name for row in paper.rows())]


def test_a_table_as_json() -> None:
    lines = [json.loads(line) for line in run("zoo", "--table", "table4", "--json").splitlines()]
    assert [line["paper"]["weights_kb"] for line in lines] == ["82.4", "83.4", "83.5", "91.9"]
    assert [round(line["weight_bytes"] / 1024, 1) for line in lines] == [82.4, 83.4, 83.5, 91.9]


@pytest.mark.parametrize("name", ["table3/conv2-8", "tinier-yolo-half:conv6-8.weight_copies=4"])
def test_a_spec_as_toml(name: str) -> None:
    assert spec.from_toml(run("zoo", name)) == zoo.get(name)


def test_the_cost_of_changes() -> None:
    found = json.loads(run("cost", "tinier-yolo-half:conv6-8.weight_copies=4", "--json"))
    assert round(found["weight_bytes"] / 1024, 1) == 35.9


def test_an_unknown_name_is_one_line() -> None:
    result = CliRunner().invoke(main, ["cost", "table4/nothing"])
    assert result.exit_code == 1 and "dupnet zoo lists them" in result.output and result.output.count("\n") == 1
