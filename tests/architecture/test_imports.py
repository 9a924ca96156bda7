"""Who imports whom, what `import dupnet` costs, and how many public names there are."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_the_import_table() -> None:
    done = subprocess.run([Path(sys.executable).parent / "lint-imports"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def modules_after(code: str) -> set[str]:
    script = f"{code}\nimport sys\nprint(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT).stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import dupnet; dupnet.Detector; dupnet.zoo.get('dupnet-tinier-yolo'); dupnet.cost.count",
        "import dupnet.cli",
        "import dupnet.evaluation.wider, dupnet.data.wider",
    ],
)
def test_a_fresh_interpreter_loads_no_framework(code: str) -> None:
    loaded = modules_after(code)
    assert not {"torch", "scipy", "tensorboard", "cv2", "dupnet.nn", "dupnet.training"} & loaded


def test_public_names() -> None:
    import dupnet

    assert sorted(dupnet.__all__) == [
        "Classifier", "Detections", "Detector", "DupnetError", "IntegerModel", "ModelSpec", "cost", "load", "save", "zoo",
    ]  # fmt: skip
    assert all(getattr(dupnet, name) for name in [*dupnet.__all__, "convert", "train"])


def test_a_star_import_does_without_torch() -> None:
    assert "torch" not in modules_after("from dupnet import *")


def test_without_torch_the_message_says_what_to_install() -> None:
    code = "import sys; sys.modules['torch'] = None\nimport dupnet\n"
    code += "try:\n    dupnet.train\nexcept ModuleNotFoundError as error:\n    print(error)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "pip install 'dupnet[train]'" in out


def test_no_file_is_long() -> None:
    files = [
        *(ROOT / "src").rglob("*.py"),
        *(ROOT / "core").glob("*.[ch]"),
        *(ROOT / "bindings").glob("*.cpp"),
        *(ROOT / "tests").rglob("*.py"),
    ]
    assert files and {p.name: n for p in files if (n := len(p.read_text().splitlines())) > 500} == {}
