"""The WIDER FACE reader on what real files contain, and on what broken ones do."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from dupnet.data import wider
from dupnet.errors import DataError

GOOD = """\
0--Parade/a.jpg
2
10 20 30 40 0 0 0 0 0 0
-5.5 1 8 9.5 2 0 0 1 2 1
0--Parade/none.jpg
0
0 0 0 0 0 0 0 0 0 0
0--Parade/none_short.jpg
0
1--Handshaking/flat.jpg
1
345 211 0 0 2 0 0 0 2 0

1--Handshaking/last.jpg
1
1 2 3 4
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "list.txt"
    path.write_text(text, encoding="utf-8")
    return path


def test_reads_everything_in_order(tmp_path: Path) -> None:
    samples = wider.read(write(tmp_path, GOOD))
    assert [s.photo for s in samples] == [
        "0--Parade/a.jpg", "0--Parade/none.jpg", "0--Parade/none_short.jpg", "1--Handshaking/flat.jpg", "1--Handshaking/last.jpg",
    ]  # fmt: skip
    np.testing.assert_allclose(samples[0].boxes, [[10, 20, 40, 60], [-5.5, 1, 2.5, 10.5]])
    assert [s.ignore.tolist() for s in samples] == [[False, True], [], [], [True], [False]]
    assert samples[1].boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no photo"),
        ("a.jpg\n", "line 2: expected the number of faces"),
        ("a.jpg\nmany\n", "found 'many'"),
        ("a.jpg\n\u00b2\n", "line 2: expected the number of faces"),
        ("a.jpg\n" + "9" * 5000 + "\n", "line 2: expected the number of faces"),
        ("a.jpg\n2\n1 2 3 4\n", "line 4.*end of the file"),
        ("a.jpg\n1\n1 2 3\n", "line 3"),
        ("a.jpg\n1\n1 2 3 x\n", "1 2 3 x"),
        ("a.jpg\n1\n1 2 nan 4\n", "nan"),
        ("a.jpg\n1\nb.jpg\n1\n", "b.jpg"),
        ("a.jpg\n0\nb.jpg\n0\na.jpg\n0\n", "a.jpg is listed twice"),
    ],
)
def test_broken_lists_name_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        wider.read(write(tmp_path, text))
    assert "list.txt" in str(caught.value)


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    assert wider.read(write(tmp_path, "\ufeff" + GOOD))[0].photo == "0--Parade/a.jpg"


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="WIDER_train"):
        wider.split(tmp_path, "train")


def test_binary_file(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(DataError, match="cannot be read"):
        wider.read(tmp_path / "list.txt")


def test_the_key_follows_the_list(tiny_wider: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_wider / "wider_face_split", tmp_path / "wider_face_split")
    before = wider.annotations_key(tmp_path, "train")
    (path,) = (tmp_path / "wider_face_split").glob("*train*.txt")
    path.write_text(path.read_text().replace(" 0 0 0 0 0 0\n", " 0 0 0 1 0 0\n", 1))
    assert wider.annotations_key(tmp_path, "train") != before
