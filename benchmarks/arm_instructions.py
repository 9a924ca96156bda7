"""How many instructions a detection takes on a 64-bit ARM, kernels by kernels: counted under qemu, where times mean nothing.

    python benchmarks/arm_instructions.py --size 320x240

Needs gcc, gcc-aarch64-linux-gnu, libc6-dev-arm64-cross and qemu-user. The count is of a detection alone, resizing and suppression
included: what two of them take more than one.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from pathlib import Path

from dupnet import zoo

ROOT = Path(__file__).resolve().parents[1]
KERNELS = ("portable", "neon", "neondot")


def count(folder: Path, kernels: str, width: str, height: str, times: int) -> int:
    """Instructions of so many detections."""
    program = [folder / "detections", zoo.model_path("dupnet-tinier-yolo"), kernels, width, height, str(times)]
    command = ["qemu-aarch64", "-cpu", "max", "-plugin", f"{folder / 'count.so'}", *map(str, program)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(re.findall(r"(\d+) instructions", done.stderr)[0])


def main() -> None:
    """Build, count and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="320x240")
    width, height = parser.parse_args().size.split("x")
    with tempfile.TemporaryDirectory() as name:
        folder, here = Path(name), ROOT / "benchmarks"
        subprocess.run(["gcc", "-O2", "-shared", "-fPIC", here / "count_plugin.c", "-o", folder / "count.so"], check=True)
        build = ["aarch64-linux-gnu-gcc", "-std=c99", "-O3", "-static", f"-I{ROOT / 'core'}", *sorted((ROOT / "core").glob("*.c"))]
        subprocess.run([*build, here / "detections.c", "-o", folder / "detections", "-lm"], check=True)
        found = {kernels: count(folder, kernels, width, height, 2) - count(folder, kernels, width, height, 1) for kernels in KERNELS}
    for kernels, instructions in found.items():
        print(f"{kernels:10} {instructions / 1e6:8.1f} million instructions   {found['portable'] / instructions:5.2f} times fewer")


if __name__ == "__main__":
    main()
