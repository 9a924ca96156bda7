"""The core on its own: compiled without warnings as C99 and C++, without the things it promises not to use, and under sanitizers."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import vectors
from random_models import small_model, wide_model
from tools import CORE, ROOT, SOURCES, WARNINGS, build, call, core_objects

from dupnet import Detector, image, packed, zoo

COMPILERS = [
    pytest.param(name, marks=pytest.mark.skipif(shutil.which(name) is None, reason=f"{name} is not installed")) for name in ("gcc", "clang")
]


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    packed.save(small_model(), tmp_path / "small.dnet")
    return tmp_path / "small.dnet"


@pytest.mark.parametrize("compiler", COMPILERS)
def test_no_warnings(compiler: str, tmp_path: Path) -> None:
    """As C99; and as C++, which some programs compile everything as."""
    core_objects(compiler, "-O2")
    for source in SOURCES:
        call(compiler, "-x", "c++", "-std=c++11", "-O2", *WARNINGS, "-c", source, "-o", tmp_path / "object.o")


ARM_HEADERS = Path("/usr/aarch64-linux-gnu/include")


@pytest.mark.skipif(shutil.which("clang") is None or not ARM_HEADERS.is_dir(), reason="needs clang and libc6-dev-arm64-cross")
@pytest.mark.parametrize("processor", ["armv8-a", "armv8.2-a+dotprod"])
def test_no_warnings_for_arm(processor: str) -> None:
    """Only compiled; tests/slow runs it."""
    for source in SOURCES:
        target = ["--target=aarch64-linux-gnu", "-isystem", ARM_HEADERS, f"-march={processor}"]
        call("clang", *target, "-std=c99", "-O2", *WARNINGS, "-fsyntax-only", source)
        call("clang", *target, "-x", "c++", "-std=c++11", "-O2", *WARNINGS, "-fsyntax-only", source)


SANITIZED = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
CHECKED = [("gcc", ("-O2",)), ("clang", ("-O2",)), ("gcc", SANITIZED), pytest.param("clang", SANITIZED, marks=pytest.mark.slow)]


@pytest.mark.parametrize(("compiler", "flags"), CHECKED, ids=["gcc", "clang", "gcc-sanitized", "clang-sanitized"])
def test_checks(compiler: str, flags: tuple[str, ...], tmp_path: Path, model_file: Path) -> None:
    (tmp_path / "empty.c").write_text("int main(void) { return 0; }\n")
    probe = [compiler, *flags, tmp_path / "empty.c", "-o", tmp_path / "empty"]
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    if subprocess.run(probe, capture_output=True).returncode or subprocess.run([tmp_path / "empty"]).returncode:
        pytest.skip(f"{compiler} has no runtime for {flags[-1]}")
    packed.save(wide_model(), tmp_path / "wide.dnet")
    for name, models in {"checks": [model_file, tmp_path / "wide.dnet"], "stream": [model_file]}.items():
        assert call(build(compiler, ROOT / f"tests/core/{name}.c", tmp_path / name, *flags), *models) == "ok\n"


@pytest.mark.parametrize("compiler", COMPILERS[:1])
def test_the_program_that_compares_maps_finds_differences(compiler: str, tmp_path: Path) -> None:
    """tests/slow runs it on other processors; here, that it agrees with good vectors and with no others."""
    program, path = build(compiler, ROOT / "tests/core/agreement.c", tmp_path / "agreement", "-O2"), tmp_path / "vectors"
    vectors.write(path, vectors.of_random_models(12))
    assert re.search(r"^portable: \d+ values of \d+ maps equal; [1-9]\d* boxes", call(program, path), flags=re.MULTILINE)
    model = small_model()
    maps = bytearray(vectors.maps_record(model, np.zeros((4, 6, 3), np.uint8)))
    maps[-1] ^= 1
    vectors.write(path, [vectors.model_record(packed.to_bytes(model)), bytes(maps)])
    refused = subprocess.run([program, path], capture_output=True, text=True)
    assert refused.returncode == 1 and "stage 4, channel 9" in refused.stderr


def test_the_core_is_an_island() -> None:
    """No heap, no files, no state: nothing but these headers, no library function but these, no variable but constants."""
    allowed = {path.name for path in CORE.glob("*.h")} | {
        "stddef.h",
        "stdint.h",
        "string.h",
        "math.h",
        "immintrin.h",
        "arm_neon.h",
        "sys/auxv.h",
        "cpuid.h",
    }
    for path in [*SOURCES, *CORE.glob("*.h")]:
        code = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)
        assert set(re.findall(r'#\s*include\s*[<"]([^>"]+)', code)) <= allowed, path.name
        assert not re.search(r"\b(malloc|calloc|realloc|free|alloca|qsort|getenv|abort|exit)\s*\(", code), path.name
        variables = re.findall(r"^(?:static|extern)\s[^(){};]*[;=]", code, flags=re.MULTILINE)
        assert all("const" in variable for variable in variables), f"{path.name}: {variables}"


def example(text: str) -> str:
    match = re.search(r"```c\n(.*?)```", text, flags=re.DOTALL)
    assert match, "docs/core.md shows no program"
    return match[1]


@pytest.mark.parametrize("compiler", COMPILERS)
def test_program_of_the_guide(compiler: str, tmp_path: Path, model_file: Path) -> None:
    (tmp_path / "faces.c").write_text(example((ROOT / "docs/core.md").read_text()))
    (tmp_path / "photo.ppm").write_bytes(b"P6 40 30 255\n" + bytes(range(240)) * 15)
    build(compiler, tmp_path / "faces.c", tmp_path / "faces", "-O2")
    lines = call(tmp_path / "faces", model_file, tmp_path / "photo.ppm").splitlines()
    assert lines and all(re.fullmatch(r"\d+ \d+ \d+ \d+  [01]\.\d\d", line) for line in lines)
    deep, short, large = b"P6 40 30 65535\n" + bytes(7200), b"P6 9 9 255\n", b"P6 5000 9 255\n"
    for photo, reason in ((deep, "no comments"), (short, "too early"), (large, "larger")):
        (tmp_path / "photo.ppm").write_bytes(photo)
        refused = subprocess.run([tmp_path / "faces", model_file, tmp_path / "photo.ppm"], capture_output=True, text=True)
        assert refused.returncode == 1 and reason in refused.stderr and not refused.stdout


@pytest.mark.parametrize("compiler", COMPILERS)
def test_program_of_the_header(compiler: str, tmp_path: Path) -> None:
    manual = (CORE / "dupnet.h").read_text().split("*/")[0]
    program = "\n".join(line[7:] for line in manual.splitlines() if line.startswith(" *     ") or line == " *")
    assert program.count("\n") > 15
    (tmp_path / "example.c").write_text(program + "\n")
    call(compiler, "-std=c99", "-O2", *WARNINGS, f"-I{CORE}", "-c", tmp_path / "example.c", "-o", tmp_path / "example.o")


@pytest.mark.parametrize("compiler", COMPILERS)
def test_camera_example(compiler: str, tmp_path: Path) -> None:
    """Rows from a file to boxes, as many bytes of memory as the example has: the boxes of the detector."""
    photo = image.resize(image.read(ROOT / "examples/astronaut.jpg"), (300, 300))
    (tmp_path / "photo.ppm").write_bytes(b"P6 300 300 255\n" + photo.tobytes())
    build(compiler, ROOT / "examples/camera.c", tmp_path / "camera", "-O2")
    command = [tmp_path / "camera", zoo.model_path("dupnet-tinier-yolo")]
    found = subprocess.run(command, input=(tmp_path / "photo.ppm").read_bytes(), capture_output=True, check=True).stdout.decode()
    expected = Detector("dupnet-tinier-yolo").detect(photo, size=300)
    assert len(expected) > 0
    assert found == "".join("{:.1f} {:.1f} {:.1f} {:.1f}  {:.3f}\n".format(*box, score) for box, score in expected)
    larger = [tmp_path / "camera", zoo.model_path("dupnet-tinier-yolo-l")]
    assert subprocess.run(larger, input=(tmp_path / "photo.ppm").read_bytes(), capture_output=True, check=True).stdout
    short = subprocess.run(command, input=b"P6 300 300 255\n" + bytes(900), capture_output=True)
    assert short.returncode == 1 and b"ends too early" in short.stderr
    deep = subprocess.run(command, input=b"P6 300 300 65535\n" + bytes(540000), capture_output=True)
    assert deep.returncode == 1 and b"P6, 8 bits" in deep.stderr
