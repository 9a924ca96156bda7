"""The paper's sizes and operation counts, to the last printed digit."""

import pytest

from dupnet import cost, zoo
from dupnet.spec import with_layers

TABLE_6 = {  # name: KB, MFLOPs, as printed in tables 1, 3 and 6
    "tiny-yolo": ("62516", "24407"),
    "tinier-yolo": ("7707", "3213"),
    "ifq-tinier-yolo": ("240.9", "107.9"),
    "tinier-yolo-half": ("82.4", "49.3"),
    "dupnet-tinier-yolo": ("36.9", "62.6"),
    "dupnet-tinier-yolo-l": ("45.4", "95.7"),
}


def printed(value: float, like: str) -> str:
    return f"{value:.{len(like.partition('.')[2])}f}"


@pytest.mark.parametrize("name", TABLE_6)
def test_totals_are_the_papers(name: str) -> None:
    total = cost.count(zoo.get(name)).total
    kilobytes, mflops = TABLE_6[name]
    assert printed(total.weight_bytes / 1024, kilobytes) == kilobytes
    assert printed(total.paper_mflops, mflops) == mflops


def test_the_shortcuts_at_640x480() -> None:
    total = cost.count(zoo.get("dupnet-tinier-yolo"), (480, 640)).total
    assert round(total.macs / 1e6) == 1467
    assert round(total.effective_macs / 1e6) == 656


def test_layers_of_dupnet() -> None:
    layers = cost.count(zoo.get("dupnet-tinier-yolo")).layers
    assert [layer.weight_bytes / 1024 for layer in layers] == pytest.approx([27 / 1024, 0.5625, 1.125, 2.25, 9, 4.5, 9, 2, 8.4375])


def test_map_memory_by_hand() -> None:
    # 32x16 pixels: the photo has 3 x 512 bytes, Conv1 leaves 8 channels of 16x8 levels of 2 bits.
    first = cost.count(zoo.get("dupnet-tinier-yolo"), (16, 32)).layers[0]
    assert first.map_bytes == 3 * 512 + 8 * 128 * 2 // 8


def test_sides_are_padded_to_the_stride() -> None:
    spec = zoo.get("dupnet-tinier-yolo")
    assert cost.count(spec, (100, 33)).total.macs == cost.count(spec, (112, 48)).total.macs


def test_both_duplications_at_once_cost_the_cheaper_way() -> None:
    spec = with_layers(zoo.get("tinier-yolo-half"), "both", {7: {"weight_copies": 4, "map_copies": 2}})
    layer = cost.count(spec).layers[6]
    assert layer.effective_macs * 4 == layer.macs


def test_float_models_have_no_packed_file() -> None:
    assert cost.count(zoo.get("tiny-yolo")).total.file_bytes is None
