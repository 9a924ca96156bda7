"""Where the bytes of a packed file go, and what other codes would give: the study behind docs/format.md.

    python benchmarks/entropy.py dupnet-tinier-yolo models/dupnet-tinier-yolo.pt

Each MODEL is a packed file, a name that ships, or a checkpoint (needs torch). Prices are those of adaptive binary models, in bytes:
what an ideal arithmetic coder would write, learning included.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dupnet import packed, zoo
from dupnet.integer import IntegerModel, Stage

Contexts = dict[str, NDArray[np.int64]]


def load(name: str) -> IntegerModel:
    if Path(name).suffix != ".pt":
        return packed.load(zoo.model_path(name))
    from dupnet.conversion import convert

    return convert(name)


def price(bits: NDArray[np.int64], contexts: Contexts) -> tuple[dict[str, float], float]:
    """Bytes for each way to choose a context, and for a logistic mix of all of them, whose weights learn as it goes."""
    tables: list[dict[int, list[float]]] = [{} for _ in contexts]
    spent, mixed, weights = [0.0] * len(contexts), 0.0, [0.4] * len(contexts)
    for bit, *row in zip(bits.ravel().tolist(), *(np.broadcast_to(c, bits.shape).ravel().tolist() for c in contexts.values())):
        stretched = []
        for number, context in enumerate(row):
            state = tables[number].setdefault(context, [0.5, 1.5])
            p = state[0]
            spent[number] -= math.log2(p if bit else 1 - p)
            stretched.append(math.log(p / (1 - p)))
            state[0] = min(max(p + (bit - p) / min(state[1] + 1, 64), 0.001), 0.999)
            state[1] += 1
        p = min(max(1 / (1 + math.exp(-sum(w * s for w, s in zip(weights, stretched)))), 0.001), 0.999)
        mixed -= math.log2(p if bit else 1 - p)
        weights = [w + 0.002 * (bit - p) * s for w, s in zip(weights, stretched)]
    return {name: value / 8 for name, value in zip(contexts, spent)}, mixed / 8


def shifted(bits: NDArray[np.int64], rows: int = 0, columns: int = 0, channels: int = 0, filters: int = 0) -> NDArray[np.int64]:
    """The bit so many places before, 2 where there is none; `bits` are (filters, rows, columns, channels)."""
    found = np.full_like(bits, 2)
    by = (filters, rows, columns, channels)
    to = tuple(slice(max(n, 0), size + min(n, 0)) for n, size in zip(by, bits.shape))
    of = tuple(slice(max(-n, 0), max(size + min(-n, 0), 0)) for n, size in zip(by, bits.shape))
    found[to] = bits[of]
    return found


def contexts_of(stage: Stage, bits: NDArray[np.int64]) -> Contexts:
    above, left = shifted(bits, rows=1), shifted(bits, columns=1)
    corners = 3 * shifted(bits, rows=1, columns=1) + shifted(bits, rows=1, columns=-1)
    tap = np.arange(stage.kernel**2).reshape(1, stage.kernel, stage.kernel, 1)
    found: Contexts = {
        "none": np.zeros_like(bits),
        "place": tap,
        "above, left": 3 * above + left,
        "4 neighbours": 9 * (3 * above + left) + corners,
        "place, 2": 9 * tap + 3 * above + left,
        "channels": 3 * shifted(bits, channels=1) + shifted(bits, channels=2),
        "filter": 9 * shifted(bits, filters=1) + tap,
        "anchors": 3 * shifted(bits, filters=5) + shifted(bits, filters=10),
    }
    if stage.map_copies > 1:
        before, copy = shifted(bits, channels=stage.in_channels), np.arange(bits.shape[3]) // stage.in_channels
        found["copy"] = 3 * before + shifted(bits, channels=2 * stage.in_channels)
        found["as coded"] = np.where(before == 0, 36, 9 * np.minimum(copy, 3) + 3 * above + left)
    return found


def study_weights(model: IntegerModel) -> None:
    print("weights: bytes more or less than one bit each, for each choice of context; and of all of them mixed")
    totals = [0.0, 0.0, 0.0]
    for number, stage in enumerate(model.stages, 1):
        if stage.weight_bits > 1:
            continue
        bits = ((stage.weights + 1) // 2).transpose(0, 2, 3, 1).astype(np.int64)
        alone, mixed = price(bits, contexts_of(stage, bits))
        raw, best = bits.size / 8, alone.get("as coded", alone["above, left"])
        for index, value in enumerate((raw, best, mixed)):
            totals[index] += value
        print(
            f"  stage {number}: {raw:7.0f}  " + "  ".join(f"{k} {v - raw:+.0f}" for k, v in alone.items()) + f"  mixed {mixed - raw:+.0f}"
        )
    print(f"  together {totals[0]:.0f}, one context {totals[1]:.0f}, mixed {totals[2]:.0f}; without the changes of stages that lose by it")


def study_thresholds(model: IntegerModel) -> None:
    print("thresholds: bits a filter if first ones and steps were normal, alone and given the weights' sum; bends; out of reach; parity")
    for number, stage in enumerate(model.stages, 1):
        if stage.thresholds is None or stage.output_bits < 2:
            continue
        t = stage.thresholds.astype(float)
        first, step, bends = t[:, 0], t[:, 1] - t[:, 0], np.diff(t, 2, axis=1)
        sums = stage.weights.sum(axis=(1, 2, 3)).astype(float)
        known = np.corrcoef(sums, first)[0, 1] ** 2
        widths = [math.log2(4.133 * max(float(np.std(v)), 0.3)) for v in (first, step)]
        counts = np.unique(bends, return_counts=True)[1] / bends.size
        highest = stage.weight_copies * (2**stage.input_bits - 1)
        positive, negative = (highest * np.maximum(s * stage.weights, 0).sum(axis=(1, 2, 3), dtype=float) for s in (1, -1))
        unreachable = int(((t > positive[:, None]) | (t <= -negative[:, None])).sum())
        even = stage.map_copies % 2 == 0 and stage.weight_copies == 1
        given = widths[0] + 0.5 * math.log2(1 - known)
        print(
            f"  stage {number}: first {widths[0]:.1f}, given the sum {given:.1f} (r^2 {known:.2f}); step {widths[1]:.1f}; "
            f"bend {-(counts * np.log2(counts)).sum():.1f}; out of reach {unreachable}; {'all sums even' if even else 'no parity'}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="+")
    for name in parser.parse_args().model:
        model = load(name)
        files = [packed.to_bytes(model, smallest=smallest) for smallest in (False, True)]
        print(f"{name}: {len(files[0])} bytes as a file, {len(files[1])} with all weights coded")
        for what, data in zip(("as written", "smallest"), files):
            print(f"  {what}: " + ", ".join(f"{s.file_weights} + {s.file_thresholds}" for s in packed.stage_bytes(data)))
        study_thresholds(model)
        study_weights(model)


if __name__ == "__main__":
    main()
