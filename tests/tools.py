"""Programs that the slow tests need, and how to call them."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CORE = ROOT / "core"
SOURCES = sorted(CORE.glob("*.c"))
WARNINGS = ["-Werror", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow"]

PACKAGES = {
    "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
    "arm-linux-gnueabihf-gcc": "gcc-arm-linux-gnueabihf libc6-dev-armhf-cross",
    "s390x-linux-gnu-gcc": "gcc-s390x-linux-gnu libc6-dev-s390x-cross",
    "qemu-aarch64": "qemu-user",
    "qemu-arm": "qemu-user",
    "qemu-s390x": "qemu-user",
    "clang": "clang libclang-rt-dev",
    "clang++": "clang libclang-rt-dev",
    "gcc": "gcc",
    "g++": "g++",
}
"""Debian's packages of each program."""

SKIP = "DUPNET_SKIP_MISSING_TOOLS"


def need(*programs: str) -> None:
    """Fail the test if a program is missing, or skip it if the environment variable DUPNET_SKIP_MISSING_TOOLS allows that."""
    missing = [program for program in programs if shutil.which(program) is None]
    if not missing:
        return
    packages = " ".join(sorted({PACKAGES[program] for program in missing}))
    text = f"{', '.join(missing)} not found: apt-get install {packages}"
    if os.environ.get(SKIP):
        pytest.skip(text)
    pytest.fail(f"{text}; or skip such tests with {SKIP}=1", pytrace=False)


def call(*command: str | Path, env: dict[str, str] | None = None) -> str:
    """Run a command that must succeed; what it wrote."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, env={**os.environ, **(env or {})})
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
    return done.stdout


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """What was compiled; it goes with the process."""
    return tempfile.TemporaryDirectory(prefix="dupnet-tests-")


@functools.cache
def core_objects(compiler: str, *flags: str) -> tuple[Path, ...]:
    """The core as C99 with these flags, without a warning: object files, made once."""
    folder = Path(tempfile.mkdtemp(dir=_folder().name))
    objects = tuple(folder / f"{source.stem}.o" for source in SOURCES)
    for source, out in zip(SOURCES, objects):
        call(compiler, "-std=c99", *flags, *WARNINGS, "-c", source, "-o", out)
    return objects


def build(compiler: str, source: Path, out: Path, *flags: str) -> Path:
    """A program in C99 with the core, without a warning."""
    call(compiler, "-std=c99", *flags, *WARNINGS, f"-I{CORE}", source, *core_objects(compiler, *flags), "-o", out, "-lm")
    return out
