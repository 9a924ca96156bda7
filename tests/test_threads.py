"""One detector, many threads; processes that are forked while threads detect."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from random_models import input_map, of_spec

from dupnet import Detections, Detector, packed, zoo

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("threads") / "model.dnet"
    packed.save(of_spec(zoo.get("dupnet-tinier-yolo")), path)
    return path


def same(a: Detections, b: Detections) -> bool:
    return np.array_equal(a.xyxy, b.xyxy) and np.array_equal(a.scores, b.scores)


def test_a_pool_of_threads_shares_a_model(path: Path) -> None:
    """Photos of all sizes, so that arenas change hands between large and small ones; every way to detect at the same time."""
    maps, rows = Detector(path), Detector(path, memory="rows")
    workers = Detector(path, threads=3)
    photos = [input_map(np.random.default_rng(seed), 8 + 11 * (seed % 5), 10 + 17 * (seed % 7)) for seed in range(12)]
    sizes = [32 + 16 * (seed % 4) for seed in range(12)]
    expected = [maps.detect(photo, size=size, score=0.2) for photo, size in zip(photos, sizes)]
    assert sum(map(len, expected)) > 20

    def fed(photo: np.ndarray, size: int) -> Detections:
        stream = maps.stream(photo.shape[1], photo.shape[0], size=size, score=0.2)
        for row in photo:
            stream.feed(row)
        return stream.end()

    def job(number: int) -> bool:
        photo, size = photos[number % 12], sizes[number % 12]
        if number % 4 == 3:
            return same(fed(photo, size), expected[number % 12])
        detector = (maps, rows, workers)[number % 4]
        return same(detector.detect(photo, size=size, score=0.2), expected[number % 12])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(job, np.random.default_rng(0).permutation(480).tolist()))


@pytest.mark.parametrize("memory", ["maps", "rows"])
def test_other_threads_run_meanwhile(path: Path, memory: str) -> None:
    """This thread goes on in the middle half of a detection, which it could not if the detection held the interpreter."""
    detector = Detector(path, memory=memory)
    photo = input_map(np.random.default_rng(0), 600, 800)
    times: list[float] = []

    def detect() -> None:
        times.append(time.monotonic())
        detector.detect(photo, size=1200)
        times.append(time.monotonic())

    detector.detect(photo, size=1200)
    thread = threading.Thread(target=detect)
    thread.start()
    awake = []
    while thread.is_alive():
        awake.append(time.monotonic())
        time.sleep(0.0005)
    thread.join()
    begin, end = times
    quarter = (end - begin) / 4
    assert any(begin + quarter < moment < end - quarter for moment in awake)


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_fork_while_threads_detect(path: Path) -> None:
    """A child has none of its parent's threads, and must not wait for what they held."""
    detector, workers = Detector(path), Detector(path, threads=2)
    photo = input_map(np.random.default_rng(1), 40, 60)
    expected = detector.detect(photo, size=64, score=0.2)
    stop = threading.Event()

    def keep_busy(one: Detector) -> None:
        while not stop.is_set():
            one.detect(photo, size=32)

    busy = [threading.Thread(target=keep_busy, args=(one,)) for one in (detector, detector, workers)]
    for thread in busy:
        thread.start()
    codes = []
    try:
        for number in range(20):
            one = (detector, workers)[number % 2]
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    code = 0 if all(same(one.detect(photo, size=64, score=0.2), expected) for _ in range(3)) else 2
                finally:
                    os._exit(code)
            timer = threading.Timer(20, os.kill, (child, 9))
            timer.start()
            codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            timer.cancel()
    finally:
        stop.set()
        for thread in busy:
            thread.join()
    assert codes == [0] * 20
