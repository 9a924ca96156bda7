"""`dupnet zoo` and `dupnet cost`: names in, tables and TOML out."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from dupnet import paper, spec, zoo
from dupnet.cli import main
from dupnet.data import wider
from dupnet.nn import Network, checkpoint
from dupnet.nn.eresfd import EResFD
from dupnet.spec import EResFDSpec

ASTRONAUT = Path(__file__).resolve().parents[1] / "examples" / "astronaut.jpg"


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


def test_a_spec_as_json() -> None:
    assert spec.from_dict(json.loads(run("zoo", "tinier-yolo-half", "--json"))) == zoo.get("tinier-yolo-half")
    assert CliRunner().invoke(main, ["zoo", "tinier-yolo-half", "--table", "table4"]).exit_code == 2


def test_the_cost_of_changes() -> None:
    found = json.loads(run("cost", "tinier-yolo-half:conv6-8.weight_copies=4", "--json"))
    assert round(found["weight_bytes"] / 1024, 1) == 35.9


def test_of_files_is_spoken_where_there_are_some() -> None:
    texts = {name: CliRunner().invoke(main, ["cost", name]).output for name in ("dupnet-tinier-yolo", "tiny-yolo")}
    assert "The file has a header" in texts["dupnet-tinier-yolo"] and "The file has" not in texts["tiny-yolo"]


def test_an_unknown_table_prints_nothing_else() -> None:
    result = CliRunner().invoke(main, ["zoo", "--table", "table99"])
    assert result.exit_code == 1 and result.output.count("\n") == 1


def test_an_unknown_name_is_one_line() -> None:
    result = CliRunner().invoke(main, ["cost", "table4/nothing"])
    assert result.exit_code == 1 and "dupnet zoo lists them" in result.output and result.output.count("\n") == 1


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of an untrained float network."""
    path = tmp_path_factory.mktemp("teacher") / "network.pt"
    torch.manual_seed(0)
    checkpoint.save(Network(zoo.get("table3/float")), path)
    return path


def test_float_networks_detect_and_are_evaluated(teacher: Path, tiny_wider: Path, tmp_path: Path) -> None:
    faces = json.loads(run("detect", str(ASTRONAUT), "--model", str(teacher), "--size", "64", "--score", "0", "--json"))["faces"]
    assert len(faces) > 3
    root = Path(shutil.copytree(tiny_wider, tmp_path / "wider"))
    subsets = {sample.photo: {"easy": [], "medium": [0], "hard": [0]} for sample in wider.split(root, "val")[0]}
    (root / "wider_face_split" / "val_difficulty.json").write_text(json.dumps(subsets))
    found = json.loads(run("evaluate", "--model", str(teacher), "--wider", str(root), "--size", "64", "--json"))
    assert found["model"] == "table3/float" and found["photos"] == 8 and 0 <= found["ap_all"] <= 1


PEER = "def load(name, *, threads, floor):\n    return lambda rgb: None\n"


def test_a_checkpoint_and_eresfd_are_timed_beside_peers(teacher: Path, tmp_path: Path) -> None:
    (tmp_path / "peers.py").write_text(PEER)
    eresfd = tmp_path / "eresfd.pt"
    checkpoint.save(EResFD(EResFDSpec(8)), eresfd)
    for model, name in ((teacher, "table3/float"), (eresfd, "eresfd")):
        words = ("bench", "--model", str(model), "--size", "64x48", "--seconds", "0.05", "--peers", str(tmp_path), "--peer", "instant")
        found = json.loads(run(*words, "--json"))
        assert (found["model"], found["isa"], found["size"], found["stages"]) == (name, "torch", "64x48", [])
        assert 0 < found["min_ms"] <= found["median_ms"] and found["repetitions"] >= 3
        (peer,) = found["peers"]
        assert peer["name"] == "instant" and peer["ratio"] == pytest.approx(found["median_ms"] / peer["median_ms"])
    text = run(*words)
    assert (
        text.startswith(f"eresfd, 64x48, torch, 1 thread of {found['processor']}\n\none detection: median ") and "instant: median" in text
    )


@pytest.mark.parametrize(
    "words, says",
    [
        (["--roofline"], "runs in torch; --isa and --roofline are about the C core's kernels"),
        (["dupnet-tinier-yolo"], "give one model, not dupnet-tinier-yolo and --model"),
    ],
)
def test_what_a_checkpoint_is_not_timed_with(teacher: Path, words: list[str], says: str) -> None:
    result = CliRunner().invoke(main, ["bench", "--model", str(teacher), *words])
    assert result.exit_code == 2 and says in " ".join(result.output.split())


@pytest.mark.parametrize("verb", [["detect", str(ASTRONAUT)], ["bench"], ["evaluate", "--wider", "."]])
def test_a_checkpoint_without_torch_says_what_to_install(verb: list[str], teacher: Path) -> None:
    words = [*verb, "--model", str(teacher)]
    code = f"import sys; sys.modules['torch'] = None; from dupnet.cli import main; main({words!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and "this needs torch: pip install 'dupnet[train]'" in done.stderr and "Traceback" not in done.stderr
