"""What it costs to open a packed file: time here, instructions by function, bytes of code.

    python benchmarks/decode_cost.py [MODEL] [--cc "arm-linux-gnueabihf-gcc -mthumb -Os"]

MODEL is a .dnet file or a name that ships. Instructions are counted by valgrind (callgrind), if it is there, in a program compiled for
speed and one for size: divide by a microcontroller's megahertz for microseconds, at an instruction a cycle. `--cc` is another compiler
with its options, of which only the bytes of code are told.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from dupnet import zoo

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "core").glob("*.c"))


def call(*command: str | Path) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stderr}")
    return done.stdout


def build(folder: Path, level: str) -> Path:
    program = folder / f"decode{level}"
    call("cc", "-std=c99", level, "-g", f"-I{ROOT / 'core'}", *SOURCES, ROOT / "benchmarks/decode.c", "-lm", "-o", program)
    return program


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="dupnet-tinier-yolo")
    parser.add_argument("--cc", action="append", default=[], help="another compiler and its options, for the bytes of code")
    arguments = parser.parse_args()
    path = zoo.model_path(arguments.model)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for level in ("-O2", "-Os"):
            program = build(folder, level)
            print(f"{level}: {call(program, path, '200')}", end="")
            if not shutil.which("valgrind"):
                continue
            out = folder / "callgrind"
            call("valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", program, path, "1")
            text = call("callgrind_annotate", "--inclusive=yes", out)
            for function in ("dn_model_open", "dn_coder_weights", "dn_coder_thresholds"):
                found = re.search(rf"^\s*([\d,]+) .*:{function}\b", text, re.MULTILINE)
                print(f"    {function}: {found[1] if found else '?'} instructions")
        for compiler in ["cc -Os", *arguments.cc]:
            call(*compiler.split(), "-std=c99", f"-I{ROOT / 'core'}", "-c", ROOT / "core/dn_coder.c", "-o", folder / "coder.o")
            size = re.search(r"^\.text\S*\s+(\d+)", call("size", "-A", folder / "coder.o"), re.MULTILINE)
            print(f"{compiler}: {size[1] if size else '?'} bytes of code in dn_coder.c")


if __name__ == "__main__":
    main()
