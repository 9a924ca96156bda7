"""Duplication factors for a budget, by a rule short enough to check by hand.

The paper's two observations, as steps on a spec:

1. **Compress where the channels are.** Among the layers that are not sensitive, the one whose template has most channels (then: most
   bytes; then: the upper one) gets twice the weight copies, again and again. Up to `FREE_COPIES`, and while templates keep
   `FREE_CHANNELS` channels, this cost the paper no accuracy (Figure 3: 0.837, 0.841, 0.844 for 1, 2, 4 copies); beyond, it did
   (0.819 for 8).
2. **Spend map copies where they bring most per byte.** Steps are taken in the order of expected gain per added byte, if the budgets allow.

The free compression goes only as far as the chosen map copies need; what lies beyond it is used only if the weights alone do not fit.
Before: `dupnet.cost`. After: a spec for a recipe. What a layer's sensitivity is, `dupnet.experiments.sensitivity` measures.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from dupnet import cost
from dupnet.errors import DataError, SpecError
from dupnet.spec import ModelSpec, with_layers

FREE_COPIES, FREE_CHANNELS = 4, 32
"""The most weight copies, and the fewest template channels, that cost no accuracy in the paper (Figure 3, Conv6 and Conv7 at 4x)."""

LEAST_CHANNELS = 8
"""Templates are not made smaller than this: below one byte a filter and tap, duplication has no channels left to share."""

OPERATIONS_LIMIT = 1.5
"""Without a budget of multiply-adds, map copies may raise the operations to so many times the base's. The paper took a rise of 27%
for DupNet and refused one of 88%."""

PAPER_STEPS = (({2: 4, 3: 2}, 3.0), ({1: 4}, 0.5), ({-1: 2}, 1.8))
"""Map copies by layer (-1: the last), and the points of detection rate that they brought. Source: DupNet, Table 4."""

PAPER_SENSITIVE = (1, 2, 3, -1)
"""Layers that the paper calls sensitive, and the last one, whose quantization and duplication it measured too (Tables 3 and 4)."""

MAP_COPIES = (2, 4)
"""Numbers of map copies that a measured sensitivity is spent on, one after the other."""


@dataclass(frozen=True)
class Budget:
    """What a model may cost.

    Attributes:
        weights_kb: stored weights, in KB of 1,024 bytes (`dupnet cost`).
        macs: multiply-adds in millions, duplicated channels included; None limits the operations to `OPERATIONS_LIMIT`.
        maps_kb: the largest pair of maps that exist at once, in KB.
        size_hw: height and width of the input that the latter two are counted for.
    """

    weights_kb: float
    macs: float | None = None
    maps_kb: float | None = None
    size_hw: tuple[int, int] = (608, 608)


@dataclass(frozen=True)
class Step:
    """Map copies that belong together: layer number to copies, and the gain expected of them in the sensitivity's unit."""

    copies: dict[int, int]
    gain: float
    source: str

    def words(self) -> str:
        return ", ".join(f"Conv{layer} {copies} times" for layer, copies in self.copies.items())


@dataclass(frozen=True)
class Proposal:
    """A spec within the budget, and why it is this one, a sentence a decision."""

    spec: ModelSpec
    reasons: tuple[str, ...]


def read_sensitivity(path: str | Path, base: ModelSpec) -> dict[int, float]:
    """Cost of quantizing each layer alone, by layer number, from a file that `dupnet sensitivity` wrote.

    Raises:
        DataError: it cannot be read, or belongs to a model with other layers.
    """
    try:
        table = json.loads(Path(path).read_text(encoding="utf-8"))
        costs = {int(layer): float(value) for layer, value in table["cost_of_layer"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not a result of dupnet sensitivity: {type(error).__name__}: {error}") from None
    if sorted(costs) != list(range(1, len(base.layers) + 1)) or not all(map(math.isfinite, costs.values())):
        raise DataError(f"{path}: holds layers {sorted(costs)}; {base.name} has layers 1 to {len(base.layers)}, and each needs a number")
    return costs


def search(base: ModelSpec, budget: Budget, *, name: str = "", sensitivity: dict[int, float] | None = None) -> Proposal:
    """Choose weight and map copies.

    Args:
        base: the layers; its own copies are dropped first.
        budget: must hold for the result.
        name: of the new spec; made of base and budget if empty.
        sensitivity: cost of quantizing each layer alone, by layer number; the paper's order if None.

    Raises:
        SpecError: nothing fits; says what the smallest possible is.

    Example:
        >>> from dupnet import zoo
        >>> found = search(zoo.get("tinier-yolo-half"), Budget(weights_kb=37))
        >>> found.spec.layers == zoo.get("dupnet-tinier-yolo").layers
        True
    """
    name = name or f"{base.name.partition(':')[0].encode()[:40].decode(errors='ignore')}-{budget.weights_kb:g}kb"
    plain = with_layers(base, name, {n: {"weight_copies": 1, "map_copies": 1} for n in range(1, len(base.layers) + 1)})
    plain = replace(plain, about=f"Proposed for {budget.weights_kb:g} KB of weights.")
    _check_base(base.name, plain, budget)
    sensitive = _sensitive(plain, sensitivity)
    free = [plain, *_squeezed(plain, sensitive, FREE_COPIES, FREE_CHANNELS)]
    reasons = [_why_sensitive(sensitive, sensitivity)]

    def fits(spec: ModelSpec) -> bool:
        return cost.count(spec).total.weight_bytes <= budget.weights_kb * 1024

    smallest = free[-1]
    if not fits(smallest):
        harder = [*_squeezed(smallest, sensitive, 64, LEAST_CHANNELS)]
        smallest = next((spec for spec in harder if fits(spec)), None) or _refuse(plain, (harder or free)[-1], budget)
        reasons.append(
            f"Compression goes beyond {FREE_COPIES} copies and templates of {FREE_CHANNELS} channels, as the weights do not fit otherwise: "
            "expect to lose accuracy (the paper lost 0.018 of 0.837 with 8 copies)."
        )
        free = [smallest]

    chosen: dict[int, int] = {}
    for step in _steps(plain, sensitivity):
        wanted = chosen | step.copies
        refusal = _too_many_operations(plain, _with_maps(plain, wanted), budget)
        if not refusal and not fits(_with_maps(smallest, wanted)):
            short = cost.count(_with_maps(smallest, wanted)).total.weight_bytes / 1024
            refusal = f"even with all the compression above, the weights would be {short:.2f} KB"
        if not refusal:
            chosen = wanted
        added = (cost.count(_with_maps(plain, step.copies)).total.weight_bytes - cost.count(plain).total.weight_bytes) / 1024
        verb = "is left out: " + refusal if refusal else "is taken"
        reasons.append(f"Maps: {step.words()} (+{added:.2f} KB, {step.source}) {verb}.")
    spec = next(spec for spec in (_with_maps(one, chosen) for one in free) if fits(spec))
    reasons.insert(1, _why_compressed(plain, spec, budget))
    return Proposal(spec, tuple(reasons))


def _squeezed(spec: ModelSpec, sensitive: tuple[int, ...], copies_max: int, channels_min: int) -> Iterator[ModelSpec]:
    """`spec` with one more doubling of weight copies each, in the order of the module's rule."""
    while True:
        best: tuple[int, float, int] | None = None
        for number, (layer, stored, line) in enumerate(zip(spec.layers, spec.stored_channels, cost.count(spec).layers), 1):
            possible = stored % 2 == 0 and stored // 2 >= channels_min and 2 * layer.weight_copies <= copies_max
            if number not in sensitive and possible:
                best = max(best or (0, 0.0, 0), (stored, line.weight_bytes, number))
        if best is None:
            return
        number = best[2]
        spec = with_layers(spec, spec.name, {number: {"weight_copies": 2 * spec.layers[number - 1].weight_copies}})
        yield spec


def _sensitive(spec: ModelSpec, sensitivity: dict[int, float] | None) -> tuple[int, ...]:
    count = len(spec.layers)
    if sensitivity is None:
        return tuple(sorted({number % (count + 1) for number in PAPER_SENSITIVE if abs(number) <= count}))
    mean = sum(max(value, 0.0) for value in sensitivity.values()) / count
    return tuple(number for number, value in sorted(sensitivity.items()) if value >= mean and value > 0)


def _steps(spec: ModelSpec, sensitivity: dict[int, float] | None) -> list[Step]:
    """Map copies worth having, the best gain per added byte first."""
    lines, count = cost.count(spec).layers, len(spec.layers)
    if sensitivity is None:
        table = [
            ({number % (count + 1): copies for number, copies in step.items()}, gain)
            for step, gain in PAPER_STEPS
            if max(map(abs, step)) <= count
        ]
        known = [Step(copies, gain, f"the paper gained {gain} points") for copies, gain in table]
        return sorted(known, key=lambda step: -step.gain / sum(lines[n - 1].weight_bytes * (c - 1) for n, c in step.copies.items()))
    # Assumption: the first copy wins back half of what quantizing the layer cost, each further doubling half of the rest.
    steps = []
    for number in _sensitive(spec, sensitivity):
        bytes_each, left = lines[number - 1].weight_bytes, sensitivity[number]
        for copies in MAP_COPIES:
            left /= 2
            step = Step({number: copies}, left, f"quantizing Conv{number} cost {sensitivity[number]:.4f}")
            steps.append((-left / (bytes_each * copies / 2), number, step))
    return [step for *_, step in sorted(steps, key=lambda item: item[:2])]


def _with_maps(spec: ModelSpec, copies: dict[int, int]) -> ModelSpec:
    return with_layers(spec, spec.name, {number: {"map_copies": n} for number, n in copies.items()})


def _too_many_operations(plain: ModelSpec, spec: ModelSpec, budget: Budget) -> str:
    if budget.macs is not None:
        macs = cost.count(spec, budget.size_hw).total.macs / 1e6
        return f"the multiply-adds would be {macs:,.0f} million" if macs > budget.macs else ""
    before, after = (cost.count(one, budget.size_hw).total.paper_mflops for one in (plain, spec))
    if after <= OPERATIONS_LIMIT * before:
        return ""
    return (
        f"the operations would grow from {before:.1f} to {after:.1f} MFLOPs, more than {OPERATIONS_LIMIT:g} times "
        "(a budget of multiply-adds that has room for it replaces this limit)"
    )


def _check_base(base: str, plain: ModelSpec, budget: Budget) -> None:
    """Refuse budgets that no duplication can meet: maps and operations of the base itself."""
    total, (height, width) = cost.count(plain, budget.size_hw).total, budget.size_hw
    if budget.macs is not None and total.macs > budget.macs * 1e6:
        raise SpecError(
            f"{budget.macs:g} million multiply-adds are not possible at {width}x{height} pixels: without any map copies {base} "
            f"needs {total.macs / 1e6:,.1f} million, and weight copies do not change that; take a smaller --size or a smaller base"
        )
    if budget.maps_kb is None or total.map_bytes <= budget.maps_kb * 1024:
        return
    scales = (step / max(height, width) for step in range(max(height, width) // plain.stride * plain.stride, 31, -plain.stride))
    sizes = ((max(1, round(height * scale)), max(1, round(width * scale))) for scale in scales)
    fitting = next((size for size in sizes if cost.count(plain, size).total.map_bytes <= budget.maps_kb * 1024), None)
    advice = f"they fit at {fitting[1]}x{fitting[0]} pixels" if fitting else "no input is small enough"
    raise SpecError(
        f"{budget.maps_kb:g} KB of maps are not possible at {width}x{height} pixels: {base} needs {total.map_bytes / 1024:.1f} KB "
        f"there, and duplication does not change that, since copies are never stored; {advice}"
    )


def _refuse(plain: ModelSpec, smallest: ModelSpec, budget: Budget) -> ModelSpec:
    least = cost.count(smallest).total.weight_bytes / 1024
    raise SpecError(
        f"{budget.weights_kb:g} KB of weights are not possible: the smallest that duplication makes of these layers is {least:.2f} KB "
        f"(templates of {LEAST_CHANNELS} channels, sensitive layers untouched; {cost.count(plain).total.weight_bytes / 1024:.2f} KB "
        "without duplication); take a base with fewer filters"
    )


def _why_sensitive(sensitive: tuple[int, ...], sensitivity: dict[int, float] | None) -> str:
    names = ", ".join(f"Conv{number}" for number in sensitive) or "none"
    if sensitivity is None:
        return f"Sensitive layers, which are not compressed: {names} (the paper's, Tables 3 and 4; no measurement was given)."
    return f"Sensitive layers, which are not compressed: {names} (quantizing them cost at least the mean of all layers)."


def _why_compressed(plain: ModelSpec, spec: ModelSpec, budget: Budget) -> str:
    before, after = (cost.count(one).total.weight_bytes / 1024 for one in (plain, spec))
    done = [f"Conv{number} {layer.weight_copies} times" for number, layer in enumerate(spec.layers, 1) if layer.weight_copies > 1]
    if not done:
        return f"Weights: {after:.2f} KB with the map copies below, within {budget.weights_kb:g} KB; nothing needs compressing."
    return (
        f"Weights: {', '.join(done)}; most template channels first, no further than {budget.weights_kb:g} KB with the map copies below "
        f"need: {before:.2f} KB become {after:.2f} KB."
    )
