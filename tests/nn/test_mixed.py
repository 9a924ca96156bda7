"""Mixed precision: sums are the same, bit for bit; gradients are rounded to bfloat16, no more."""

import platform
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dupnet import zoo
from dupnet.errors import SpecError
from dupnet.nn import mixed
from dupnet.nn.duplication import DuplicatedConv2d
from dupnet.nn.network import Network, Stage
from dupnet.nn.quantizers import PACT

pytestmark = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="torch has 8-bit convolutions on x86 only")

ROUNDING = 0.02
"""Relative error that some roundings to bfloat16 (2^-9 each) may leave in a gradient that went through nine layers."""


def gradients(network: Network, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    network.zero_grad()
    grid = network(image)
    (grid * torch.linspace(-1, 1, grid.numel()).view_as(grid)).sum().backward()
    return grid.detach(), {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", ["dupnet-tinier-yolo", "dupnet-tinier-yolo-l", "table2/a4w4-1x", "table6/ifq-tinier-yolo"])
def test_the_network_is_the_same(name: str) -> None:
    torch.manual_seed(1)
    network = Network(zoo.get(name)).to(memory_format=torch.channels_last).train()
    for stage in network.stages:  # with shifts of 0, a channel's mean would lie on the quantizer's edge, where rounding decides
        torch.nn.init.normal_(stage.norm.bias, std=0.3)
    image = torch.randint(0, 256, (3, 3, 64, 96), dtype=torch.uint8)
    grid, exact = gradients(network, image)
    layers = mixed.enable(network)
    grid_mixed, rounded = gradients(network, image)
    assert len(layers) == 9, layers
    assert torch.equal(grid, grid_mixed)
    assert exact.keys() == rounded.keys()
    for parameter, gradient in exact.items():
        if gradient.ndim == 4:  # a layer's weights; single numbers are sums that cancel
            error = (rounded[parameter] - gradient).norm() / gradient.norm()
            assert 0 < error < ROUNDING, (parameter, error)


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """So many threads for torch and for the extension."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def test_pooling_and_its_gradient(threads: None) -> None:
    """Ties go to the first of four, as torch does it; any number of threads."""
    torch.manual_seed(2)
    levels = torch.randint(0, 4, (2, 5, 12, 18)).float().requires_grad_()
    weights = (torch.randint(0, 2, (16, 5, 3, 3)) * 2.0 - 1).requires_grad_()
    gradient = torch.randint(-8, 9, (2, 16, 6, 9)).float()  # integers, so that bfloat16 loses nothing
    want = F.max_pool2d(F.conv2d(levels, weights, padding=1), 2)
    wanted = torch.autograd.grad(want, (levels, weights), gradient)
    got = mixed.convolve(levels, weights, 1, pool=True)
    assert torch.equal(got, want) and (want == want.round()).all()
    of_levels, of_weights = torch.autograd.grad(got, (levels, weights), gradient)
    assert torch.equal(of_levels, wanted[0].bfloat16().float()) and torch.equal(of_weights, wanted[1].bfloat16().float())


def test_the_first_layer(threads: None) -> None:
    torch.manual_seed(3)
    photos = torch.randint(0, 256, (3, 3, 10, 14)).float()
    weights = torch.randint(-4, 5, (24, 3, 3, 3)).float().requires_grad_()
    gradient = torch.randint(-8, 9, (3, 24, 5, 7)).float()
    want = F.max_pool2d(F.conv2d(photos, weights, padding=1), 2)
    got = mixed.convolve(photos, weights, 1, pool=True)
    assert torch.equal(got, want)
    assert torch.equal(torch.autograd.grad(got, weights, gradient)[0], torch.autograd.grad(want, weights, gradient)[0])


@pytest.mark.parametrize("colours, filters, pool", [(3, 8, 2), (8, 16, 2), (16, 24, 1)])
def test_a_stage(threads: None, colours: int, filters: int, pool: int) -> None:
    """Convolution, pooling, batch norm and quantizer in one go: levels, running statistics, and every gradient."""
    torch.manual_seed(4)
    stage = Stage(DuplicatedConv2d(colours, filters, standardize_weights=True), pool, PACT(2, bound=1.7)).train()
    torch.nn.init.normal_(stage.norm.weight, 0.2, 1)  # some slopes are negative: their absolute values count
    torch.nn.init.normal_(stage.norm.bias, std=0.3)
    photos = colours == 3
    x = torch.randint(0, 256 if photos else 4, (3, colours, 22, 34)).float()
    results = []
    for precision in (False, True):
        stage.conv.mixed = precision
        stage.norm.reset_running_stats()
        x.requires_grad_(not photos)
        levels = stage(x)
        torch.manual_seed(5)
        given = [*stage.parameters()] + [x] * (not photos)
        gradients = torch.autograd.grad(levels, given, torch.randn(levels.shape).bfloat16().to(levels.dtype))
        results.append((levels.detach().float(), torch.stack([stage.norm.running_mean, stage.norm.running_var]), gradients))
    (levels, statistics, exact), (levels_mixed, statistics_mixed, rounded) = results
    assert (levels != levels_mixed).float().mean() < 1e-4 and set(levels.unique().tolist()) == {0, 1, 2, 3}
    torch.testing.assert_close(statistics_mixed, statistics, rtol=1e-3, atol=1e-3)
    for wanted, got in zip(exact, rounded):
        assert (got - wanted).norm() < (1e-3 if photos else 0.01) * wanted.norm()


def test_a_layer_that_does_not_fit_reads_exact_levels() -> None:
    """Levels of a stage in mixed precision are bfloat16; sums in that would be rounded."""
    torch.manual_seed(6)
    stage = Stage(DuplicatedConv2d(8, 16, standardize_weights=True), 2, PACT(2)).train()
    stage.conv.mixed = True
    behind = DuplicatedConv2d(16, 32, weight_bits=4, standardize_weights=True)
    levels = stage(torch.randint(0, 4, (2, 8, 24, 24)).float().requires_grad_())
    assert levels.dtype == torch.bfloat16
    assert torch.equal(behind.accumulate(levels), behind.accumulate(levels.float()))


def test_without_gradients_the_levels_are_the_same() -> None:
    """Only the photos have three channels: that a map needs no gradient does not make it one."""
    torch.manual_seed(7)
    network, photos = Network(zoo.get("dupnet-tinier-yolo")), torch.randint(0, 256, (2, 3, 64, 64))
    mixed.enable(network)
    with torch.no_grad():
        without = network(photos)
    assert torch.equal(network(photos), without)


@pytest.mark.parametrize("name", ["dupnet-tinier-yolo", "tinier-yolo-half:conv1-9.weight_bits=6,conv2-9.input_bits=6"])
def test_evaluation_is_the_same(name: str) -> None:
    """As a teacher is asked: with the statistics it has learned."""
    torch.manual_seed(8)
    network, photos = Network(zoo.get(name)), torch.randint(0, 256, (2, 3, 64, 96))
    with torch.no_grad():
        for _ in range(20):
            network(photos)
        exact = network.eval()(photos)
    assert len(mixed.enable(network)) == 9
    with torch.no_grad():
        assert torch.equal(network(photos), exact) and exact.std() > 0


def test_layers_that_do_not_fit_stay_as_they_are() -> None:
    network = Network(zoo.get("table3/conv4-8"))
    fitting = mixed.enable(network)
    assert fitting and all(network.spec.layers[number].weight_bits == 1 for number in fitting)
    a8w8 = mixed.enable(Network(zoo.get("table2/a8w8-1x")))
    assert a8w8 == [], a8w8  # weights do not fit 8 bits with a sign
    assert mixed.enable(Network(zoo.get("tinier-yolo"))) == []
    for change in ("input_bits=32", "weight_copies=3"):  # pixels / 255 are no integers; the first layer's kernels hold three colours
        assert 0 not in mixed.enable(Network(zoo.get(f"dupnet-tinier-yolo:conv1.{change}")))


def test_bfloat16_forward_would_not_do() -> None:
    """Why the forward pass is in integers: sums beyond 256 do not survive bfloat16."""
    levels, weights = torch.full((1, 128, 3, 3), 3.0), torch.ones(1, 128, 3, 3)
    weights[0, 0, 0, 0] = -1
    exact = F.conv2d(levels, weights)
    assert exact.item() == 3450.0
    assert F.conv2d(levels.bfloat16(), weights.bfloat16()).item() != exact.item()
    assert mixed.convolve(levels, weights, 0).item() == exact.item()


def test_a_machine_that_cannot_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> Tensor:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(mixed, "_sums", broken)
    with pytest.raises(SpecError, match="no such operator"):
        mixed.enable(Network(zoo.get("dupnet-tinier-yolo")))
    monkeypatch.setattr(mixed, "_sums", lambda small, signed, border: F.conv2d(small.float(), signed.float(), padding=border) + 1)
    with pytest.raises(SpecError, match="not exact"):
        mixed.enable(Network(zoo.get("dupnet-tinier-yolo")))
