"""The core on other processors, under qemu: the same integers at every stage as the reference, and its checks of memory and calls."""

from __future__ import annotations

import functools
import re
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest
import vectors
from random_models import small_model, wide_model
from tools import ROOT, build, call, need

from dupnet import packed

pytestmark = pytest.mark.slow
RANDOM_MODELS = 60


class Target(NamedTuple):
    """A processor: its name, its compiler, how to run its programs, and the kernels that must have run."""

    name: str
    compiler: str
    run: tuple[str, ...]
    kernels: tuple[str, ...]


TARGETS = [
    Target("aarch64", "aarch64-linux-gnu-gcc", ("qemu-aarch64", "-cpu", "cortex-a53"), ("portable", "neon")),
    Target("aarch64-dot-products", "aarch64-linux-gnu-gcc", ("qemu-aarch64", "-cpu", "max"), ("portable", "neon", "neondot")),
    Target("arm-32-bit", "arm-linux-gnueabihf-gcc", ("qemu-arm",), ("portable",)),
    Target("s390x-big-endian", "s390x-linux-gnu-gcc", ("qemu-s390x",), ("portable",)),
]
every_target = pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)


@functools.cache
def folder() -> tempfile.TemporaryDirectory[str]:
    """Programs and vectors, made once."""
    return tempfile.TemporaryDirectory()


@functools.cache
def program(compiler: str, source: str) -> Path:
    """A program of tests/core/ with the core, for the compiler's processor."""
    return build(compiler, ROOT / "tests/core" / f"{source}.c", Path(folder().name) / f"{compiler}-{source}", "-O2", "-static")


@functools.cache
def vectors_file() -> Path:
    path = Path(folder().name) / "vectors"
    vectors.write(
        path, [*vectors.of_random_models(RANDOM_MODELS), *vectors.of_general_models(30), *vectors.of_the_zoo(), *vectors.of_resizes()]
    )
    return path


@every_target
def test_every_value_of_every_stage(target: Target) -> None:
    need(target.compiler, target.run[0])
    text = call(*target.run, program(target.compiler, "agreement"), vectors_file())
    print(f"\n{text}", end="")
    compared = dict(re.findall(r"^(\S+): (\d+) values of \d+ maps equal; [1-9]\d+ boxes within", text, flags=re.MULTILINE))
    assert set(compared) == {*target.kernels, "streaming"}, text
    assert all(int(count) > 200_000 for count in compared.values())


@every_target
def test_checks(target: Target, tmp_path: Path) -> None:
    need(target.compiler, target.run[0])
    packed.save(small_model(), tmp_path / "small.dnet")
    packed.save(wide_model(), tmp_path / "wide.dnet")
    assert call(*target.run, program(target.compiler, "checks"), tmp_path / "small.dnet", tmp_path / "wide.dnet") == "ok\n"


@pytest.mark.parametrize("source", ["agreement", "checks"])
def test_neon_under_sanitizers(source: str, tmp_path: Path) -> None:
    """Address and undefined behaviour; leaks are looked for on x86."""
    need("aarch64-linux-gnu-gcc", "qemu-aarch64")
    flags = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    build("aarch64-linux-gnu-gcc", ROOT / "tests/core" / f"{source}.c", tmp_path / source, *flags)
    vectors.write(tmp_path / "vectors", [*vectors.of_random_models(20), *vectors.of_general_models(9), *vectors.of_resizes()])
    packed.save(small_model(), tmp_path / "small.dnet")
    packed.save(wide_model(), tmp_path / "wide.dnet")
    files = ["vectors"] if source == "agreement" else ["small.dnet", "wide.dnet"]
    run = ["qemu-aarch64", "-cpu", "max", "-L", "/usr/aarch64-linux-gnu", tmp_path / source]
    text = call(*run, *(tmp_path / name for name in files), env={"ASAN_OPTIONS": "detect_leaks=0"})
    assert "neondot: " in text or text == "ok\n"
