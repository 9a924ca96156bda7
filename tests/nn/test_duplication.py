"""The duplicated convolution against its literal definition: tile, then convolve."""

import pytest
import torch
import torch.nn.functional as F

from dupnet.nn import DuplicatedConv2d, Quantized
from dupnet.nn.quantizers import standardize


def literal(layer: DuplicatedConv2d, levels: torch.Tensor) -> torch.Tensor:
    weights = layer.integer_weights().repeat(1, layer.weight_copies, 1, 1)
    return F.conv2d(levels.repeat(1, layer.map_copies, 1, 1), weights, padding=layer.kernel_size // 2)


@pytest.mark.parametrize(("weight_copies", "map_copies"), [(1, 1), (4, 1), (1, 4), (2, 4), (4, 2), (8, 2), (3, 3)])
@pytest.mark.parametrize("kernel_size", [1, 3])
def test_the_shortcuts_change_no_integer(weight_copies: int, map_copies: int, kernel_size: int) -> None:
    torch.manual_seed(1)
    layer = DuplicatedConv2d(24, 10, kernel_size, weight_copies=weight_copies, map_copies=map_copies)
    assert layer.weight.shape == (10, 24 * map_copies // weight_copies, kernel_size, kernel_size)
    levels = torch.randint(0, 4, (2, 24, 5, 7)).float()
    assert torch.equal(layer.accumulate(levels), literal(layer, levels))


def test_copies_are_tiled_not_interleaved() -> None:
    layer = DuplicatedConv2d(4, 1, 1, weight_copies=2)
    with torch.no_grad():
        layer.weight[:] = torch.tensor([1.0, -1.0]).view(1, 2, 1, 1)
    channel = torch.eye(4).view(4, 4, 1, 1)  # picture i has a 1 in channel i
    assert layer.accumulate(channel).flatten().tolist() == [1, -1, 1, -1]


@pytest.mark.parametrize(("weight_copies", "map_copies"), [(4, 1), (1, 4), (4, 2)])
def test_mean_gradient_is_the_sum_over_the_copies(weight_copies: int, map_copies: int) -> None:
    grads = {}
    for gradient in ("mean", "sum"):
        torch.manual_seed(2)
        layer = DuplicatedConv2d(8, 6, weight_copies=weight_copies, map_copies=map_copies, gradient=gradient)
        levels = torch.randint(0, 4, (2, 8, 6, 6)).float().requires_grad_()
        (layer.accumulate(levels) * torch.randn(2, 6, 6, 6)).sum().backward()
        grads[gradient] = (layer.weight.grad, levels.grad)
    torch.testing.assert_close(grads["mean"][0] * weight_copies, grads["sum"][0])
    torch.testing.assert_close(grads["mean"][1] * map_copies, grads["sum"][1])


def test_sum_gradient_of_float_weights_is_autograds() -> None:
    torch.manual_seed(3)
    layer = DuplicatedConv2d(8, 6, weight_bits=32, weight_copies=2, map_copies=1, gradient="sum")
    x, out = torch.randn(1, 8, 5, 5), torch.randn(1, 6, 5, 5)
    (layer.accumulate(x) * out).sum().backward()
    ours, layer.weight.grad = layer.weight.grad, None
    (literal(layer, x) * out).sum().backward()
    torch.testing.assert_close(ours, layer.weight.grad)


def test_real_values_are_accumulators_times_scale_times_step() -> None:
    torch.manual_seed(4)
    layer = DuplicatedConv2d(8, 6)
    levels = torch.randint(0, 4, (1, 8, 5, 5)).float()
    scale = layer.weight.abs().mean((1, 2, 3)).view(1, -1, 1, 1)
    torch.testing.assert_close(layer(Quantized(levels, 0.538)), layer.accumulate(levels) * scale * 0.538)


def test_the_gradient_of_plain_signs_is_that_of_the_scaled_weights() -> None:
    torch.manual_seed(5)
    layer = DuplicatedConv2d(4, 2)
    levels, out = torch.randint(0, 4, (1, 4, 5, 5)).float(), torch.randn(1, 2, 5, 5)
    (layer(levels) * out).sum().backward()
    scaled = (layer.weight_scale() * torch.where(layer.weight >= 0, 1.0, -1.0)).detach().requires_grad_()
    (F.conv2d(levels, scaled, padding=1) * out).sum().backward()
    torch.testing.assert_close(layer.weight.grad, scaled.grad)


def test_spread_copies_are_one_more_than_r_levels_and_stay_so() -> None:
    torch.manual_seed(6)
    layer = DuplicatedConv2d(8, 16, map_copies=4, standardize_weights=True, spread_copies=True)
    optimizer = torch.optim.SGD(layer.parameters(), 0.5)
    for _ in range(3):
        levels = torch.randint(0, 4, (1, 8, 5, 5)).float()
        layer.accumulate(levels).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        signs = layer.integer_weights().unflatten(1, (4, 8))
        assert set(signs.sum(1).unique().tolist()) == {-4, -2, 0, 2, 4}
        assert (signs[:, :-1] >= signs[:, 1:]).all(), "each copy's sign falls with its offset"


WRONG = [{"kernel_size": 2}, {"weight_copies": 3}, {"gradient": "max"}, {"map_copies": 3, "spread_copies": True}]
WRONG += [{"weight_bits": 0}, {"weight_bits": 9}, {"weight_copies": 0}, {"map_copies": 0}, {"step": 0}]


@pytest.mark.parametrize("wrong", WRONG)
def test_impossible_layers_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(reversed(wrong))).replace("weight_copies", "weight.copies")):
        DuplicatedConv2d(8, 8, **wrong)


@pytest.mark.parametrize("weight_bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("standardize_weights", [False, True])
def test_real_weights_are_as_large_as_the_latent_ones(weight_bits: int, standardize_weights: bool) -> None:
    torch.manual_seed(7)
    layer = DuplicatedConv2d(16, 4, weight_bits=weight_bits, standardize_weights=standardize_weights)
    real = layer.weight_scale() * layer.integer_weights()
    torch.testing.assert_close(real.abs().mean((1, 2, 3)), layer.weight.abs().mean((1, 2, 3)))
    if weight_bits > 2 and not standardize_weights:  # and close to them one by one
        assert (real - layer.weight).abs().mean() < layer.weight.abs().mean() / 2 ** (weight_bits - 2)


@pytest.mark.parametrize("map_copies", [1, 2])
def test_thawed_signs_are_the_same_and_easy_to_move(map_copies: int) -> None:
    torch.manual_seed(4)
    layer = DuplicatedConv2d(64, 8, map_copies=map_copies, standardize_weights=True, spread_copies=map_copies > 1)
    frozen = layer.weight.sign() * (1 + 0.1 * layer.weight / layer.weight.std()).abs() + 0.02  # near -1 and +1, and not centred
    with torch.no_grad():
        layer.weight.copy_(2 * frozen)
    signs, latent = layer.integer_weights(), standardize(layer.weight)
    layer.thaw(0.33)
    thawed = standardize(layer.weight)
    assert torch.equal(layer.integer_weights(), signs)
    assert layer.weight.std(dim=(1, 2, 3)).sub(0.33).abs().max() < 0.002
    if map_copies > 1:  # the offsets ask for the very distribution
        assert torch.allclose(thawed, latent, atol=1e-4)
        return
    assert (latent.abs() < 0.1).float().mean() < 0.001 and 0.07 < (thawed.abs() < 0.1).float().mean() < 0.09
    for filter in range(8):
        above = latent[filter] > 0
        assert torch.equal(latent[filter][above].argsort(), thawed[filter][above].argsort())


def test_what_has_no_standardized_signs_does_not_thaw() -> None:
    for options in ({}, {"weight_bits": 8, "standardize_weights": True}, {"weight_bits": 32}):
        layer = DuplicatedConv2d(4, 4, **options)
        before = layer.weight.clone()
        layer.thaw(0.33)
        assert torch.equal(layer.weight, before)
