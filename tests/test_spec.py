"""Specs: the round trip through TOML, and what is refused."""

import pytest

from dupnet import spec, zoo
from dupnet.errors import SpecError
from dupnet.spec import HeadSpec, LayerSpec, ModelSpec, with_layers


@pytest.mark.parametrize("name", zoo.names())
def test_every_shipped_spec_survives_toml(name: str) -> None:
    model = zoo.get(name)
    assert model.name == name
    assert spec.from_toml(spec.to_toml(model)) == model


def test_the_zoo_holds_the_papers_models() -> None:
    papers = {"tiny-yolo", "tinier-yolo", "ifq-tinier-yolo", "tinier-yolo-half", "dupnet-tinier-yolo", "dupnet-tinier-yolo-l"}
    assert papers <= set(zoo.names())


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(SpecError, match="tiny-yolo"):
        zoo.get("nonsense")


def test_stored_channels() -> None:
    assert zoo.get("dupnet-tinier-yolo").stored_channels == (3, 32, 32, 32, 64, 32, 32, 64, 256)
    assert zoo.get("dupnet-tinier-yolo-l").stored_channels == (12, 32, 32, 32, 64, 32, 32, 64, 512)


def test_with_layers_changes_only_what_it_says() -> None:
    half = zoo.get("tinier-yolo-half")
    eight = with_layers(half, "eight", {6: {"weight_copies": 8}})
    assert eight.layers[5].weight_copies == 8 and eight.layers[:5] == half.layers[:5] and eight.head == half.head


HEAD = "[head]\nanchors = [[10, 10]]\n"
GRID = "[[layers]]\nfilters = 6\ninput_bits = 8\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "not valid TOML"),
        (HEAD, "needs 'name'"),
        (GRID + HEAD, "needs 'name'"),
        ('name = "x"\n' + GRID, "needs 'head'"),
        ('name = "x"\n' + HEAD, "needs 'layers'"),
        ('name = "x"\ncolour = 3\n' + GRID + HEAD, "unknown key 'colour'"),
        ('name = "x"\n[[layers]]\nfilters = 5\ninput_bits = 8\n' + HEAD, "6 filters"),
        ('name = "x"\n[[layers]]\nfilters = 6\nkernel = 2\n' + HEAD, "kernel must be"),
        ('name = "x"\n[[layers]]\nfilters = "6"\n' + HEAD, "filters must be a whole number"),
        ('name = "x"\n[[layers]]\nfilters = 6\ninput_bits = 2\n' + HEAD, "8-bit photo"),
        ('name = "x"\n[[layers]]\nfilters = 6\ninput_bits = 8\nweight_copies = 2\n' + HEAD, "not a multiple"),
        ('name = "x"\n[[layers]]\nfilters = 6\ninput_bits = 8\npool = 2\n' + HEAD, "pool 1"),
        ('name = "x"\n' + GRID + "[head]\nanchors = [[0, 10]]\n", "anchor"),
        ('name = "x"\n' + GRID + "[head]\nanchors = []\n", "1 to 16 anchors"),
        ('name = "x"\n' + GRID + "[head]\nanchors = [10]\n", "source.toml: .*a list of 2 numbers"),
        ('name = "x"\ndefault_size_px = 416.5\n' + GRID + HEAD, "a whole number, not 416.5"),
        ('name = "x"\nlayers = [3]\n' + HEAD, "expected a table, found 3"),
        ('name = "x"\n' + GRID + HEAD + 'centre_scale = "a"\n', "a finite number, not 'a'"),
        ('name = "x"\n' + GRID + HEAD + "centre_scale = nan\n", "a finite number, not nan"),
        ('name = "x"\n[[layers]]\nfilters = true\n' + HEAD, "not True"),
    ],
)
def test_what_is_wrong_is_said(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        spec.from_toml(text, source="source.toml")


def test_quotes_and_line_breaks_survive() -> None:
    model = ModelSpec('a "b" \\c', (LayerSpec(6, input_bits=8),), HeadSpec(((4.0, 5.0),)), about="two\nlines, a tab\t and \x7f é")
    assert spec.from_toml(spec.to_toml(model)) == model
