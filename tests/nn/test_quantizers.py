"""Levels, thresholds and gradients of the quantizers."""

import numpy as np
import pytest
import torch

from dupnet.nn.quantizers import HWGQ, HWGQ_STEPS, PACT, binarize, quantize_weights, standardize


def test_hwgq_thresholds_are_zero_and_midpoints() -> None:
    step = 0.538
    eps = 1e-6
    x = torch.tensor([-1, 0.0, eps, 1.5 * step - eps, 1.5 * step + eps, 2.5 * step - eps, 2.5 * step + eps, 100])
    assert HWGQ(2)(x).levels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("bits", sorted(HWGQ_STEPS))
def test_hwgq_levels_at_every_number_of_bits(bits: int) -> None:
    """`#{x > 0, x > 1.5 step, x > 2.5 step, ...}`, counted."""
    step = HWGQ_STEPS[bits]
    middles = (np.arange(1, 2**bits - 1) + 0.5) * step
    thresholds = np.array([0.0, *middles])
    x = np.concatenate([thresholds + offset * step for offset in (-0.01, 0.01)] + [np.array([-5.0, 9.0])])
    expected = (x[:, None] > thresholds).sum(1)
    assert HWGQ(bits)(torch.tensor(x)).levels.tolist() == expected.tolist()


@pytest.mark.parametrize("bits", sorted(HWGQ_STEPS))
def test_hwgqs_steps_are_the_best_uniform_ones(bits: int) -> None:
    """Mean squared error on the positive half of a Gaussian, by summing: neither a smaller nor a larger step is better."""
    x = np.linspace(0, 9, 200_001)[1:]
    density = np.exp(-x * x / 2)

    def error(step: float) -> float:
        levels = np.clip(np.ceil(x / step - 0.5), 1, 2**bits - 1)
        return float(((x - levels * step) ** 2 * density).sum() / density.sum())

    best = error(HWGQ_STEPS[bits])
    assert error(HWGQ_STEPS[bits] * 0.96) > best < error(HWGQ_STEPS[bits] * 1.04)


def test_hwgq_gradient_passes_inside_only() -> None:
    x = torch.tensor([-0.1, 0.2, 1.5, 1.7], requires_grad=True)
    HWGQ(2)(x).values.sum().backward()
    assert x.grad.tolist() == pytest.approx([0, 1, 1, 0])


def test_pact_rounds_to_the_nearest_of_its_levels() -> None:
    pact = PACT(2, bound=3.0)
    assert pact(torch.tensor([-1, 0.49, 0.51, 1.49, 1.51, 2.6, 7])).levels.tolist() == [0, 0, 1, 1, 2, 3, 3]


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_pact_steps_up_at_half_steps(bits: int) -> None:
    bound, top = 2.5, 2**bits - 1
    thresholds = (np.arange(1, top + 1) - 0.5) * bound / top
    x = np.concatenate([thresholds - 1e-5, thresholds + 1e-5, np.array([-1.0, 3.0])])
    expected = (x[:, None] >= thresholds).sum(1)
    assert PACT(bits, bound=bound)(torch.tensor(x)).levels.tolist() == expected.tolist()


def test_pact_gradients_are_the_papers() -> None:
    pact = PACT(2, bound=3.0)
    x = torch.tensor([-1.0, 1.0, 2.0, 5.0], requires_grad=True)
    pact(x).values.sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 0]
    assert pact.bound.grad.item() == pytest.approx(1.0)  # one value is clipped; inside, levels on the grid give 0


def test_pacts_bound_gets_lsqs_gradient() -> None:
    """LSQ's step `s` learns by `round(v) - v` inside, `v = x / s`, and by the top level where it is clipped (its equation 3)."""
    torch.manual_seed(0)
    pact, top = PACT(2, bound=2.0), 3
    x, g = torch.randn(1000) * 2, torch.randn(1000)
    (pact(x).values * g).sum().backward()
    v = x * (top / 2.0)
    by_step = torch.where(v >= top, float(top), torch.where(v <= 0, 0.0, (v + 0.5).floor() - v))
    assert pact.bound.grad.item() == pytest.approx((by_step * g).sum().item() / top, rel=1e-5)


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


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_quantized_weights_are_dorefas(bits: int) -> None:
    """Equation 9 word for word: `2 quantize_k(tanh(w) / (2 max |tanh(w)|) + 1/2) - 1`, in units of `1 / (2^k - 1)`."""
    rng = np.random.default_rng(bits)
    w = rng.normal(0, 0.7, (16, 4, 3, 3))
    top = 2**bits - 1
    squashed = np.tanh(w) / (2 * abs(np.tanh(w)).max()) + 0.5
    expected = (2 * np.round(squashed * top) / top - 1) * top
    latent = torch.tensor(w, requires_grad=True)
    found = quantize_weights(latent, bits)
    np.testing.assert_allclose(found.numpy(force=True), expected, atol=1e-9)
    if bits < 8:  # 576 weights do not meet all of 256 integers
        assert len(np.unique(found.numpy(force=True))) == 2**bits
    found[0, 0, 0, 0].backward()
    slope = top * (1 - np.tanh(w[0, 0, 0, 0]) ** 2) / abs(np.tanh(w)).max()  # straight through the rounding
    assert latent.grad[0, 0, 0, 0].item() == pytest.approx(slope)


def test_binarize_gives_exact_signs_and_passes_the_gradient() -> None:
    w = torch.tensor([[[[-0.3]], [[0.0]], [[1e-30]]]], requires_grad=True)
    signs = binarize(w)
    assert signs.flatten().tolist() == [-1, 1, 1]
    (signs * torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1)).sum().backward()
    assert w.grad.flatten().tolist() == [1, 2, 3]


def test_ewgs_pulls_weights_to_their_signs() -> None:
    w = torch.tensor([0.2, 0.2, 1.5, 1.5, -0.2, 9.0], requires_grad=True)
    g = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, 1.0])  # a step goes against the gradient
    signs = binarize(w, ewgs=0.5)
    assert signs.tolist() == [1, 1, 1, 1, -1, 1]
    (signs * g).sum().backward()
    assert w.grad.tolist() == pytest.approx([0.6, -1.4, 1.25, -0.75, 1.4, 1.5])  # the last difference, 8, is cut to 1


def test_standardize() -> None:
    torch.manual_seed(0)
    w = standardize(torch.randn(5, 4, 3, 3) * 7 + 3)
    assert w.mean((1, 2, 3)).abs().max() < 1e-5 and (w.var((1, 2, 3), unbiased=False) - 1).abs().max() < 1e-4
