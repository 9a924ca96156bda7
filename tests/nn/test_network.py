"""Networks from specs: exact integers in evaluation, gradients in training, files that come back."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dupnet import zoo
from dupnet.errors import CheckpointError, SpecError
from dupnet.nn import Network, NetworkOptions, checkpoint
from dupnet.nn.network import BatchNorm, begin, mean_of
from dupnet.spec import with_layers


def trained_a_little(network: Network) -> Network:
    torch.manual_seed(0)
    network.train()
    for _ in range(2):
        network(torch.randint(0, 256, (2, 3, 64, 64)))
    return network.eval()


@pytest.mark.parametrize("name", ["dupnet-tinier-yolo", "dupnet-tinier-yolo-l", "ifq-tinier-yolo"])
@pytest.mark.parametrize("activation", ["pact", "hwgq"])
def test_every_map_is_integers(name: str, activation: str) -> None:
    network = trained_a_little(Network(zoo.get(name), NetworkOptions(activation=activation)))
    with torch.no_grad():
        maps = list(network.maps(torch.randint(0, 256, (1, 3, 32, 48))))
    assert len(maps) == 9 and maps[-1].shape == (1, 30, 2, 3)
    for levels in maps[:-1]:
        assert torch.equal(levels, levels.round()) and levels.min() >= 0 and levels.max() <= 3
    assert torch.equal(maps[-1], maps[-1].round())


def test_a_float_network_begins_as_the_same_function_as_a_quantized_one() -> None:
    quantized = trained_a_little(Network(zoo.get("dupnet-tinier-yolo-l")))
    floats = Network(zoo.get("tinier-yolo-half:conv1-9.weight_bits=32"))
    begin(floats, quantized)
    images = torch.randint(0, 256, (1, 3, 64, 96))
    with torch.no_grad():
        assert torch.equal(floats.eval()(images), quantized(images))


@pytest.mark.parametrize("changes", ["conv9.map_copies=4", "conv2.map_copies=2,conv5.map_copies=2"])
def test_more_copies_begin_as_the_same_function(changes: str) -> None:
    """Four times the sums are no larger logits: the grid's scale and the batch norms' statistics follow."""
    options = NetworkOptions(spread_copies=False)
    start = trained_a_little(Network(zoo.get("tinier-yolo-half:conv1-9.weight_bits=1,conv2-9.input_bits=2"), options))
    more = Network(zoo.get(f"tinier-yolo-half:conv1-9.weight_bits=1,conv2-9.input_bits=2,{changes}"), options)
    begin(more, start)
    images = torch.randint(0, 256, (1, 3, 64, 96))
    with torch.no_grad():
        torch.testing.assert_close(more.eval()(images), start(images), rtol=1e-5, atol=1e-5)


def test_latents_of_a_mean_weigh_alike_whatever_their_size() -> None:
    networks = [trained_a_little(Network(zoo.get("dupnet-tinier-yolo-l"))) for _ in range(3)]
    with torch.no_grad():
        for number, network in enumerate(networks):
            network.stages[3].conv.weight.copy_(networks[0].stages[3].conv.weight * (1.0, 3.0, -10.0)[number])  # their size means nothing
            network.stages[3].norm.bias.fill_(number)
    mean = mean_of(networks)
    assert torch.equal(mean.stages[3].conv.integer_weights(), networks[0].stages[3].conv.integer_weights())
    assert torch.equal(mean.stages[3].norm.bias, torch.ones(64)) and mean.options == networks[0].options
    with pytest.raises(SpecError, match="the same layers, head and options"):
        mean_of([networks[0], Network(zoo.get("dupnet-tinier-yolo"))])


def test_the_mean_of_a_network_with_itself_is_that_network() -> None:
    network = trained_a_little(Network(zoo.get("dupnet-tinier-yolo-l"), NetworkOptions(standardize_weights=False, spread_copies=False)))
    with torch.no_grad():
        network.stages[3].conv.weight.add_(0.05)  # a filter's mean counts where filters are not standardized
    mean = mean_of([network, network])
    assert all(torch.equal(tensor, mean.state_dict()[name]) for name, tensor in network.state_dict().items() if name.endswith("weight"))


def test_every_parameter_gets_a_gradient() -> None:
    network = Network(zoo.get("dupnet-tinier-yolo-l"))
    network(torch.randint(0, 256, (2, 3, 64, 64))).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_evaluation_does_not_depend_on_the_batch() -> None:
    network = trained_a_little(Network(zoo.get("dupnet-tinier-yolo")))
    images = torch.randint(0, 256, (3, 3, 48, 64))
    with torch.no_grad():
        together = list(network.maps(images))
        alone = list(network.maps(images[1:2]))
    assert all(torch.equal(a[1:2], b) for a, b in zip(together, alone))


def test_batch_norm_in_evaluation_is_torchs() -> None:
    torch.manual_seed(0)
    norm = BatchNorm(6)
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        torch.nn.init.normal_(tensor)
    torch.nn.init.uniform_(norm.running_var, 0.1, 50)
    x = torch.randint(-300, 300, (2, 6, 5, 5)).float()
    expected = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight.abs(), norm.bias, False, 0.0, norm.eps)
    torch.testing.assert_close(norm.eval()(x), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", ["table4/none", "table2/a2w2-4x", "table2/a4w4-4x", "table2/a8w8-4x", "table3/conv1-8", "table3/float"])
@pytest.mark.parametrize("activation", ["pact", "hwgq"])
def test_the_grid_starts_at_about_unit_size(name: str, activation: str) -> None:
    torch.manual_seed(0)
    network = Network(zoo.get(name), NetworkOptions(activation=activation))
    spread = (network(torch.randint(0, 256, (2, 3, 64, 64))) - network.grid.bias.view(1, -1, 1, 1)).std()
    assert 0.2 < spread < 3


def test_max_pool_commutes_with_what_follows() -> None:
    stage = trained_a_little(Network(zoo.get("dupnet-tinier-yolo"))).stages[1]
    torch.nn.init.normal_(stage.norm.weight)
    levels = torch.randint(0, 4, (1, 8, 12, 16)).float()
    with torch.no_grad():
        pooled_last = F.max_pool2d(stage.activate(stage.conv.accumulate(levels)), 2)
        assert torch.equal(stage(levels), pooled_last)


def test_mixed_precision_runs() -> None:
    spec = with_layers(zoo.get("tinier-yolo"), "mixed", {4: {"weight_bits": 1, "input_bits": 2}, 5: {"weight_bits": 4, "input_bits": 4}})
    out = Network(spec)(torch.randint(0, 256, (1, 3, 32, 32)))
    out.sum().backward()
    assert out.shape == (1, 30, 2, 2)


@pytest.mark.parametrize("map_copies", [3, 8])
def test_any_number_of_map_copies_trains_with_the_defaults(map_copies: int) -> None:
    spec = with_layers(zoo.get("tinier-yolo-half"), "copies", {2: {"map_copies": map_copies}})
    assert Network(spec)(torch.randint(0, 256, (1, 3, 32, 32))).shape == (1, 30, 2, 2)


def test_hwgq_has_no_step_for_five_bits() -> None:
    spec = with_layers(zoo.get("tinier-yolo-half"), "five", {2: {"input_bits": 5}})
    with pytest.raises(SpecError, match="not 5"):
        Network(spec, NetworkOptions(activation="hwgq"))


def test_ewgs_changes_gradients_of_signs_and_nothing_else() -> None:
    torch.manual_seed(0)
    image = torch.randint(0, 256, (1, 3, 32, 32))
    plain = Network(zoo.get("dupnet-tinier-yolo"))
    scaled = Network(plain.spec, NetworkOptions(ewgs=0.2))
    scaled.load_state_dict(plain.state_dict())
    grids = [network(image) for network in (plain, scaled)]
    assert torch.equal(*grids)
    for grid in grids:
        grid.square().mean().backward()
    ratio = scaled.grid.conv.weight.grad / plain.grid.conv.weight.grad
    assert ratio.min() < 0.95 and ratio.max() > 1.05
    with pytest.raises(SpecError, match=r"ewgs must be in \[0, 1\)"):
        NetworkOptions(ewgs=1.0)


def test_checkpoints_come_back(tmp_path: Path) -> None:
    network = trained_a_little(Network(zoo.get("dupnet-tinier-yolo"), NetworkOptions(activation="hwgq", gradient="sum")))
    checkpoint.save(network, tmp_path / "n.pt")
    again = checkpoint.load(tmp_path / "n.pt")
    image = torch.randint(0, 256, (1, 3, 32, 32))
    assert again.spec == network.spec and again.options == network.options
    assert torch.equal(again(image), network(image))


def test_broken_checkpoints_say_so(tmp_path: Path) -> None:
    path = tmp_path / "n.pt"
    checkpoint.save(Network(zoo.get("dupnet-tinier-yolo")), path)
    whole = path.read_bytes()
    noise = np.random.default_rng(0).bytes
    cases = {"empty": b"", "half": whole[: len(whole) // 2], "text": b"hi\n", "zip": whole[:200] + noise(2000)}
    cases |= {f"noise{length}": b"\x80\x02" * (length % 2) + noise(length) for length in range(1, 60)}
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=name):
            checkpoint.load(tmp_path / name)
    with pytest.raises(CheckpointError, match="absent"):
        checkpoint.load(tmp_path / "absent")
    torch.save({"weights": {}}, tmp_path / "foreign")
    with pytest.raises(CheckpointError, match="not a checkpoint of dupnet"):
        checkpoint.load(tmp_path / "foreign")
    content = torch.load(path, weights_only=True)
    del content["weights"]["grid.bias"]
    torch.save(content, tmp_path / "lacking")
    with pytest.raises(CheckpointError, match="do not fit"):
        checkpoint.load(tmp_path / "lacking")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "n.pt"
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.write(path, {})
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    with pytest.raises((CheckpointError, OSError), match="/dev/full"):
        checkpoint.write("/dev/full", {"weights": torch.zeros(100_000)})


def test_a_checkpoint_that_was_cut_short_is_damaged(tmp_path: Path) -> None:
    checkpoint.write(tmp_path / "n.pt", {"weights": torch.zeros(100_000)})
    os.truncate(tmp_path / "n.pt", 50_000)
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.read(tmp_path / "n.pt")
