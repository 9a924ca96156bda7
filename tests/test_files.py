"""Files appear whole or not at all, and a device stays a device."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dupnet.files import whole, write_json, write_text


def test_a_file_takes_the_place_of_the_old_one_only_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(KeyError), whole(path) as part:
        part.write_text("half")
        raise KeyError
    assert path.read_text() == '{\n "a": 1\n}\n' and list(path.parent.iterdir()) == [path]


def test_a_name_as_long_as_names_may_be(tmp_path: Path) -> None:
    write_text(tmp_path / ("é" * 127 + "a"), "x")  # 255 bytes
    assert [path.read_text() for path in tmp_path.iterdir()] == ["x"]


def test_what_json_cannot_say_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"ap": float("nan")})
    assert not list(tmp_path.iterdir())


def test_what_is_no_regular_file_is_written_directly(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    write_text(pipe, "through")
    reader.join(timeout=10)
    assert got == ["through"] and pipe.is_fifo()


def test_an_error_names_the_file_that_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(OSError) as error, whole(tmp_path / "no" / "folder.txt") as part:
        part.write_text("x")
    assert error.value.filename == str(tmp_path / "no" / "folder.txt")
    with pytest.raises(OSError) as error:
        write_text(tmp_path, "a folder is no file")
    assert error.value.filename == str(tmp_path)


def test_threads_that_write_one_file_leave_it_whole(tmp_path: Path) -> None:
    path = tmp_path / "a"

    def write_often(letter: str) -> None:
        for _ in range(50):
            write_text(path, letter * 5000)

    with ThreadPoolExecutor(4) as pool:
        for writer in [pool.submit(write_often, letter) for letter in "abcd"]:
            writer.result()
    assert len(path.read_text()) == 5000 and len(set(path.read_text())) == 1 and list(tmp_path.iterdir()) == [path]


def test_a_link_stays_and_permissions_stay(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    write_text(real, "old")
    real.chmod(0o640)
    link.symlink_to(real)
    write_text(link, "new")
    assert link.is_symlink() and real.read_text() == "new" and real.stat().st_mode & 0o777 == 0o640
