"""EResFD's finding as an experiment: plain convolutions with few channels against depthwise-separable ones.

Two networks of equal size, in nothing different but the backbone; neck, head, training and measure are the same.
`dupnet.experiments.reproduction` runs them like the rows of a table.

Source: EResFD (Jeong et al., 2024), abstract: "a standard convolution block with few channels is faster and more accurate".
"""

from __future__ import annotations

import time
from statistics import median

import torch

from dupnet.experiments.runs import Measured
from dupnet.nn.eresfd import EResFD, costs
from dupnet.paper import Row
from dupnet.spec import EResFDSpec

TABLE = "eresfd-backbone"

SPECS = {
    f"{TABLE}/standard": EResFDSpec(),
    f"{TABLE}/separable": EResFDSpec(16, "separable", 38),
}
"""By row. 38 channels bring the separable backbone to 91,750 parameters, the nearest to the 92,208 of the standard one."""

RECIPES = {"tiny": "eresfd-tiny", "small": "eresfd-small", "paper": "eresfd"}
"""By scale."""

SIZE_HW = (480, 640)
"""Height and width of the input at which costs and times are told."""


def rows() -> list[Row]:
    """The experiment's rows; the paper's numbers for them are not at hand."""
    return [Row(name, spec.name) for name, spec in SPECS.items()]


def cost(name: str) -> tuple[int, int]:
    """Learned parameters and multiply-adds of a row's network."""
    modules = costs(EResFD(SPECS[name]), SIZE_HW)
    return sum(module.parameters for module in modules), sum(module.macs for module in modules)


@torch.inference_mode()
def milliseconds(repetitions: int = 15) -> Measured:
    """Time of each row's network for one photo on one thread, median of interleaved repetitions; weights do not matter for it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    networks = {name: EResFD(spec).eval().to(memory_format=torch.channels_last) for name, spec in SPECS.items()}  # type: ignore[call-overload]
    photo = torch.randint(0, 256, (1, 3, *SIZE_HW), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    times: dict[str, list[float]] = {name: [] for name in SPECS}
    for _ in range(repetitions + 2):
        for name, network in networks.items():
            start = time.perf_counter()
            network(photo)
            times[name].append(1e3 * (time.perf_counter() - start))
    torch.set_num_threads(threads)
    return {name: median(each[2:]) for name, each in times.items()}
