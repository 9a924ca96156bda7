"""The core and the worker pool under sanitizers: memory and undefined behaviour, uninitialised reads, unordered accesses of threads."""

from __future__ import annotations

from pathlib import Path

import pytest
import vectors
from random_models import small_model
from tools import CORE, ROOT, SOURCES, WARNINGS, call, need

from dupnet import packed

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("compiler", "sanitizer"), [("clang", "address,undefined"), ("gcc", "address,undefined"), ("clang", "memory")])
def test_every_stage_of_random_models(compiler: str, sanitizer: str, tmp_path: Path) -> None:
    need(compiler)
    program = tmp_path / "agreement"
    flags = ["-std=c99", "-O1", "-g", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", *WARNINGS, f"-I{CORE}"]
    call(compiler, *flags, *SOURCES, ROOT / "tests/core/agreement.c", "-o", program, "-lm")
    vectors.write(tmp_path / "vectors", [*vectors.of_random_models(60), *vectors.of_resizes()])
    assert "portable: " in call(program, tmp_path / "vectors")


@pytest.mark.parametrize(("c", "cpp"), [("clang", "clang++"), ("gcc", "g++")])
def test_threads_and_the_pool(c: str, cpp: str, tmp_path: Path) -> None:
    need(c, cpp)
    packed.save(small_model(), tmp_path / "small.dnet")
    flags = ["-O1", "-g", "-fsanitize=thread", f"-I{CORE}"]
    objects = [tmp_path / f"{source.stem}.o" for source in SOURCES]
    for source, out in zip(SOURCES, objects):
        call(c, "-std=c99", *flags, "-c", source, "-o", out)
    harness = ROOT / "tests/core/threads.cpp"
    call(cpp, "-std=c++17", *flags, f"-I{ROOT / 'bindings'}", harness, *objects, "-o", tmp_path / "threads", "-lm", "-pthread")
    assert call(tmp_path / "threads", tmp_path / "small.dnet", env={"TSAN_OPTIONS": "halt_on_error=1"}) == "ok\n"
