"""The core and the worker pool under sanitizers: memory and undefined behaviour, uninitialised reads, unordered accesses of threads."""

from __future__ import annotations

from pathlib import Path

import pytest
import vectors
from random_models import small_model
from tools import CORE, ROOT, build, call, core_objects, need

from dupnet import packed

pytestmark = pytest.mark.slow


# The memory sanitizer watches the portable kernels alone: others read bytes that they do not use, such as those after a map (DN_SLACK), and
# it does not follow single bytes through their look-ups.
FLAGS = {"address": ("-fsanitize=address,undefined",), "memory": ("-fsanitize=memory", "-DDN_PORTABLE_ONLY")}


@pytest.mark.parametrize(("compiler", "sanitizer"), [("clang", "address"), ("gcc", "address"), ("clang", "memory")])
def test_every_stage_of_random_models(compiler: str, sanitizer: str, tmp_path: Path) -> None:
    need(compiler)
    flags = ("-O1", "-g", *FLAGS[sanitizer], "-fno-sanitize-recover=all")
    program = build(compiler, ROOT / "tests/core/agreement.c", tmp_path / "agreement", *flags)
    vectors.write(tmp_path / "vectors", [*vectors.of_random_models(60), *vectors.of_general_models(30), *vectors.of_resizes()])
    assert "portable: " in call(program, tmp_path / "vectors")


@pytest.mark.parametrize(("c", "cpp"), [("clang", "clang++"), ("gcc", "g++")])
def test_threads_and_the_pool(c: str, cpp: str, tmp_path: Path) -> None:
    need(c, cpp)
    packed.save(small_model(), tmp_path / "small.dnet")
    flags = ("-O1", "-g", "-fsanitize=thread")
    sources = [f"-I{CORE}", f"-I{ROOT / 'bindings'}", ROOT / "tests/core/threads.cpp", *core_objects(c, *flags)]
    call(cpp, "-std=c++17", *flags, *sources, "-o", tmp_path / "threads", "-lm", "-pthread")
    assert call(tmp_path / "threads", tmp_path / "small.dnet", env={"TSAN_OPTIONS": "halt_on_error=1"}) == "ok\n"
