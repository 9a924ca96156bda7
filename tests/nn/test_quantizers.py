"""Levels, thresholds and gradients of the quantizers."""

import numpy as np
import pytest
import torch

from dupnet.nn.quantizers import HWGQ, PACT, binarize, quantize_weights, standardize


def test_hwgq_thresholds_are_zero_and_midpoints() -> None:
    step = 0.538
    eps = 1e-6
    x = torch.tensor([-1, 0.0, eps, 1.5 * step - eps, 1.5 * step + eps, 2.5 * step - eps, 2.5 * step + eps, 100])
    assert HWGQ(2)(x).levels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_hwgq_gradient_passes_inside_only() -> None:
    x = torch.tensor([-0.1, 0.2, 1.5, 1.7], requires_grad=True)
    HWGQ(2)(x).values.sum().backward()
    assert x.grad.tolist() == pytest.approx([0, 1, 1, 0])


def test_pact_rounds_to_the_nearest_of_its_levels() -> None:
    pact = PACT(2, bound=3.0)
    assert pact(torch.tensor([-1, 0.49, 0.51, 1.49, 1.51, 2.6, 7])).levels.tolist() == [0, 0, 1, 1, 2, 3, 3]


def test_pact_gradients_are_the_papers() -> None:
    pact = PACT(2, bound=3.0)
    x = torch.tensor([-1.0, 1.0, 2.0, 5.0], requires_grad=True)
    pact(x).values.sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 0]
    assert pact.bound.grad.item() == pytest.approx(1.0)  # one value is clipped; inside, levels on the grid give 0


def test_levels_are_whole_numbers_bit_for_bit() -> None:
    torch.manual_seed(0)
    x = torch.randn(10_000) * 3
    for quantizer in (HWGQ(2), PACT(2), PACT(4), PACT(8)):
        levels = quantizer(x).levels
        assert torch.equal(levels, levels.round()) and levels.min() == 0 and levels.max() == 2**quantizer.bits - 1


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_quantized_weights_are_odd_integers(bits: int) -> None:
    torch.manual_seed(0)
    w = quantize_weights(torch.randn(64, 8, 3, 3), bits).numpy()
    top = 2**bits - 1
    assert set(np.unique(w)) <= set(range(-top, top + 1, 2)) and abs(w).max() == top


def test_binarize_gives_exact_signs_and_passes_the_gradient() -> None:
    w = torch.tensor([[[[-0.3]], [[0.0]], [[1e-30]]]], requires_grad=True)
    signs = binarize(w)
    assert signs.flatten().tolist() == [-1, 1, 1]
    (signs * torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1)).sum().backward()
    assert w.grad.flatten().tolist() == [1, 2, 3]


def test_standardize() -> None:
    torch.manual_seed(0)
    w = standardize(torch.randn(5, 4, 3, 3) * 7 + 3)
    assert w.mean((1, 2, 3)).abs().max() < 1e-5 and (w.var((1, 2, 3), unbiased=False) - 1).abs().max() < 1e-4
