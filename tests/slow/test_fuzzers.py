"""The fuzzers build, their corpus passes, and a short search finds nothing. `make fuzz` searches longer."""

from __future__ import annotations

import re
import subprocess

import pytest
from tools import ROOT, call, need

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ["model", "image"])
def test_fuzzer(name: str) -> None:
    need("clang")
    call("make", "-C", ROOT, f"build/fuzz/{name}")
    command = ["make", "-s", "-C", ROOT, f"fuzz-{name}", "FUZZ_SECONDS=20"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    inputs = re.search(r"INITED cov: (\d+)", done.stderr)
    runs = re.search(r"Done (\d+) runs", done.stderr)
    assert inputs and int(inputs[1]) > 100 and runs and int(runs[1]) > 1000, done.stderr[-4000:]
    print(f"\n{name}: {runs[1]} executions")
