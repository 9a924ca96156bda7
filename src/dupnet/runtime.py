"""The detector that users meet, and the classifier: a packed file, run by the C core.

Everything with an exact answer happens in `core/`; here photos come in, arguments are checked and `Detections` go out.
Before this module comes `dupnet.packed`, which wrote the file; `dupnet.reference` gives the same results slowly.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from dupnet import _core, image, packed, zoo
from dupnet.detections import DEFAULT_IOU, MAX_SIZE_PX, Detections, check_arguments
from dupnet.errors import ModelFileError, SpecError

DEFAULT_MODEL = "dupnet-tinier-yolo"
MAX_THREADS = 256
MEMORY = ("maps", "rows")


class _Options(TypedDict):
    size: int
    score: float
    iou: float


class Detector:
    """Finds boxes in photos. Any number of threads may share one detector.

    Args:
        model: a name of `dupnet.zoo.model_names()`, or the path of a `.dnet` file (`dupnet.zoo.model_path`); the bundled default if None.
        threads: how many share the work of one photo, 1 to 256; the result is the same for any number.
        memory: "maps" is fast; "rows" keeps only the last rows of each map, so that its memory grows with a photo's width alone
            (docs/core.md, "Row streaming"), and runs on one thread. The result is the same.

    Attributes:
        name: of the model.
        default_size: long side of the scaled photo in pixels, unless `detect` is told another.
        default_score: lowest score kept, unless `detect` is told another.
        default_iou: boxes that overlap a better one by more than this are of its face, unless `detect` is told another.
        stride: the sides of an input map are multiples of it, in pixels.
        kernels: name of the kernels that run it.

    Raises:
        ModelFileError: the file cannot be read or breaks a rule of docs/format.md.
        SpecError: no model of that name ships.
        ValueError: a number of threads out of range, another word for `memory`, or a model whose stages row streaming does not know.

    Example:
        >>> faces = Detector().detect("group.jpg")    # doctest: +SKIP
        >>> len(faces), faces.scores.max()            # doctest: +SKIP
        (3, 0.98)
    """

    def __init__(self, model: str | os.PathLike[str] | None = None, *, threads: int = 1, memory: str = "maps") -> None:
        if memory not in MEMORY:
            raise ValueError(f"memory must be one of {', '.join(MEMORY)}, not {memory!r}")
        _check_threads(threads)
        self._model = open_core(DEFAULT_MODEL if model is None else model)
        if self._model.classes:
            raise ModelFileError(f"{model}: {self._model.name!r} gives class scores, not boxes: dupnet.Classifier runs it")
        self._path = zoo.model_path(DEFAULT_MODEL if model is None else model).absolute()
        self._threads, self._by_rows = threads, memory == "rows"
        if self._by_rows:
            self._model.arena_bytes(1, 1, size=self._model.default_size, rows=True)  # refuses stages that row streaming does not know
        self.name: str = self._model.name
        self.default_size: int = self._model.default_size
        self.default_score: float = self._model.default_score
        self.default_iou: float = DEFAULT_IOU
        self.stride: int = self._model.stride
        self.kernels: str = self._model.kernels

    def __reduce__(self) -> tuple[functools.partial[Detector], tuple[Path], dict[str, float]]:
        """Another process, or a copy, opens the same file again; defaults that were set go along."""
        defaults = {"default_size": self.default_size, "default_score": self.default_score, "default_iou": self.default_iou}
        return functools.partial(Detector, threads=self._threads, memory=MEMORY[self._by_rows]), (self._path,), defaults

    def __repr__(self) -> str:
        return f"Detector({self.name!r}, size={self.default_size}, score={self.default_score:.2f})"

    def detect(self, source: image.Source, *, size: int | None = None, score: float | None = None, iou: float | None = None) -> Detections:
        """Find boxes in a photo.

        Args:
            source: a path, a uint8 array `(h, w, 3)` in the order RGB, or a PIL image (`dupnet.image.read`).
            size: the photo's long side is scaled to so many pixels, 32 to 8192. Larger finds smaller faces and takes longer.
            score: lowest score kept, in [0, 1].
            iou: boxes that overlap a better one by more than this are of its face, in [0, 1]; 0.45 by default.

        Returns:
            Boxes in pixels of the photo, the surest first; empty if there are none.

        Raises:
            ImageError: the photo cannot be read.
            ValueError: an argument out of range.
        """
        options = self._options(size, score, iou)
        photo = image.read(source)
        pixels = np.ascontiguousarray(photo)
        if self._by_rows:
            stream = _core.Stream(self._model, pixels.shape[1], pixels.shape[0], **options)
            stream.feed(pixels)
            xyxy, scores = stream.end()
        else:
            xyxy, scores = self._model.detect(pixels, **options, threads=self._threads)
        return Detections(xyxy, scores, photo)

    def stream(self, width: int, height: int, *, size: int | None = None, score: float | None = None, iou: float | None = None) -> Stream:
        """Begin a photo of `width` x `height` pixels that arrives in rows; the other arguments are those of `detect`.

        Example:
            >>> photo = np.zeros((48, 64, 3), np.uint8)
            >>> stream = Detector().stream(64, 48)
            >>> for row in photo:
            ...     stream.feed(row)
            >>> len(stream.end())
            0
        """
        for side in (width, height):
            if not isinstance(side, (int, np.integer)) or not 1 <= side <= image.MAX_SIDE_PX:
                raise ValueError(f"the sides of a photo must be 1 to {image.MAX_SIDE_PX} pixels, not {width!r} x {height!r}")
        return Stream(_core.Stream(self._model, int(width), int(height), **self._options(size, score, iou)), int(width))

    def _options(self, size: int | None, score: float | None, iou: float | None) -> _Options:
        size = self.default_size if size is None else size
        score = self.default_score if score is None else score
        iou = self.default_iou if iou is None else iou
        check_arguments(size, score, iou)
        return {"size": int(size), "score": float(score), "iou": float(iou)}

    def maps(self, input_map: NDArray[np.uint8]) -> tuple[NDArray[np.uint8] | NDArray[np.int32], ...]:
        """Compute every map, as `dupnet.reference.run` does, by the C core.

        Args:
            input_map: `(rows, columns, 3) uint8`, sides multiples of `stride`, at most 8192.

        Returns:
            The output of each stage: levels `(filters, rows, columns) uint8`; of the last stage the grid's accumulators, int32.

        Raises:
            ValueError: the input map has another shape or type.
        """
        _check_input_map(input_map)
        if any(side % self.stride or not 1 <= side <= MAX_SIZE_PX for side in input_map.shape[:2]):
            raise ValueError(f"the sides of an input map must be multiples of {self.stride} up to {MAX_SIZE_PX}, not {input_map.shape[:2]}")
        return tuple(self._model.run(np.ascontiguousarray(input_map), threads=self._threads))


class Classifier:
    """Class scores of images. Any number of threads may share one classifier.

    Args:
        model: path of a `.dnet` file whose head is classes.
        threads: how many share the work of one image, 1 to 256; the result is the same for any number.

    Attributes:
        name: of the model.
        classes: how many there are.
        default_size: rows and columns of the input map that it was made for; others work if something is left of every map.
        kernels: name of the kernels that run it.

    Raises:
        ModelFileError: the file cannot be read, breaks a rule of docs/format.md, or finds boxes.
        ValueError: a number of threads out of range.

    Example:
        >>> Classifier("digits.dnet").scores(image).argmax()    # doctest: +SKIP
        7
    """

    def __init__(self, model: str | os.PathLike[str], *, threads: int = 1) -> None:
        _check_threads(threads)
        self._model = open_core(model)
        if not self._model.classes:
            raise ModelFileError(f"{model}: {self._model.name!r} gives boxes, not class scores: dupnet.Detector runs it")
        self._path, self._threads = zoo.model_path(model).absolute(), threads
        self.name: str = self._model.name
        self.classes: int = self._model.classes
        self.default_size: int = self._model.default_size
        self.kernels: str = self._model.kernels

    def __reduce__(self) -> tuple[functools.partial[Classifier], tuple[Path]]:
        """As a detector's."""
        return functools.partial(Classifier, threads=self._threads), (self._path,)

    def __repr__(self) -> str:
        return f"Classifier({self.name!r}, classes={self.classes}, size={self.default_size})"

    def scores(self, input_map: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Class scores `(classes,) float32`, as the network gives them (logits); the largest is the class.

        They are means over the cells of the grid, which has one cell where the network was made for images of this size.

        Args:
            input_map: `(rows, columns, 3) uint8`, of the size that the network expects; nothing is resized.

        Raises:
            ValueError: the input map has another shape or type, or is too small.
        """
        _check_input_map(input_map)
        return self._model.scores(np.ascontiguousarray(input_map), threads=self._threads)

    def maps(self, input_map: NDArray[np.uint8]) -> tuple[NDArray[np.uint8] | NDArray[np.int32], ...]:
        """Compute every map, as `Detector.maps` does; the last are the class scores' accumulators `(classes, rows, columns)`."""
        _check_input_map(input_map)
        return tuple(self._model.run(np.ascontiguousarray(input_map), threads=self._threads))


class Stream:
    """A photo that arrives in rows, as a camera delivers them; `Detector.stream` begins one. Its boxes are those of `Detector.detect`."""

    def __init__(self, stream: _core.Stream, width: int) -> None:
        self._stream, self._width = stream, width

    def feed(self, rows: NDArray[np.uint8]) -> None:
        """Take the next rows: `(width, 3)` or `(n, width, 3) uint8`, RGB. They are not needed afterwards.

        Raises:
            ValueError: rows of another shape or type, more rows than the photo has, or the photo has ended.
        """
        rows = np.asarray(rows)
        if rows.dtype != np.uint8 or rows.ndim not in (2, 3) or rows.shape[-2:] != (self._width, 3):
            raise ValueError(f"rows of this photo are (n, {self._width}, 3) uint8, not {rows.shape} {rows.dtype}")
        self._stream.feed(np.ascontiguousarray(rows.reshape(-1, self._width, 3)))

    def end(self) -> Detections:
        """The boxes, after the last row.

        Raises:
            ValueError: rows are missing, or the photo has ended already.
        """
        return Detections(*self._stream.end())


def open_core(model: str | os.PathLike[str], kernels: str = "") -> _core.Model:
    """A packed model in the C core.

    Args:
        model: a name that ships, or the path of a `.dnet` file.
        kernels: as in DUPNET_KERNELS; what that says, or the fastest, if empty.

    Raises:
        ModelFileError: the file is missing or damaged; the message names field, value and offset.
        SpecError: these kernels do not run here.
    """
    path = zoo.model_path(model)
    data = packed.read_bytes(path)
    try:
        return _core.Model(data, kernels)
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {_broken_rule(data) or error}") from None
    except ValueError as error:
        asked = f"kernels {kernels}" if kernels else f"DUPNET_KERNELS={os.environ.get('DUPNET_KERNELS', '')}"
        raise SpecError(f"{asked}: {error}") from None


def _check_threads(threads: int) -> None:
    if not isinstance(threads, (int, np.integer)) or isinstance(threads, bool) or not 1 <= threads <= MAX_THREADS:
        raise ValueError(f"threads must be 1 to {MAX_THREADS}, not {threads!r}")


def _check_input_map(input_map: NDArray[np.uint8]) -> None:
    if not isinstance(input_map, np.ndarray):
        raise ValueError(f"an input map is an array (rows, columns, 3) uint8, not {type(input_map).__name__}")
    if input_map.ndim != 3 or input_map.shape[2] != 3 or input_map.dtype != np.uint8:
        raise ValueError(f"an input map is (rows, columns, 3) uint8, not {input_map.shape} {input_map.dtype}")


def _broken_rule(data: bytes) -> ModelFileError | None:
    """What is wrong with a file that the core refused, by the reader that names field, value and offset."""
    try:
        packed.from_bytes(data)
    except ModelFileError as error:
        return error
    return None
