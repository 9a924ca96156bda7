"""Specs: the round trip through TOML, and what is refused."""

from dataclasses import replace
from pathlib import Path

import pytest

from dupnet import paper, spec, zoo
from dupnet.errors import SpecError
from dupnet.spec import HeadSpec, LayerSpec, ModelSpec, with_layers


@pytest.mark.parametrize("name", [*zoo.names(), *(row.name for row in paper.rows())])
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


def test_changes_behind_a_colon() -> None:
    half = zoo.get("tinier-yolo-half")
    derived = zoo.get("tinier-yolo-half:conv6-8.weight_copies=4,conv2.map_copies=4,conv3.map_copies=2")
    changes = {n: {"weight_copies": 4} for n in (6, 7, 8)} | {2: {"map_copies": 4}, 3: {"map_copies": 2}}
    assert derived == with_layers(half, derived.name, changes)
    assert derived.layers == zoo.get("dupnet-tinier-yolo").layers
    other = zoo.get("table4/conv2-3:head.centre_scale=1,default_size_px=608,default_score=0.25")
    assert (other.head.centre_scale, other.default_size_px, other.default_score) == (1.0, 608, 0.25)
    assert other.layers == zoo.get("table4/conv2-3").layers


def test_a_file_can_have_changes_too(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(spec.to_toml(zoo.get("tinier-yolo-half")))
    assert zoo.get(str(path)) == zoo.get("tinier-yolo-half")
    assert zoo.get(f"{path}:conv6-8.weight_copies=4").layers == zoo.get("figure3/4x").layers


def test_a_long_name_is_cut_and_stays_its_own() -> None:
    long = [zoo.get(f"tinier-yolo-half:conv1-9.weight_bits=8,conv2-9.input_bits=8,conv6.filters={n}").name for n in (64, 72)]
    assert all(name.startswith("tinier-yolo-half:conv1-9") and len(name) == 64 for name in long) and long[0] != long[1]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tinier-yolo:conv6", "tinier-yolo:conv6: cannot read the change 'conv6'"),
        ("tinier-yolo:", "cannot read the change ''"),
        ("tinier-yolo:conv12.filters=3", "layers 1 to 9, not 12"),
        ("tinier-yolo:conv3-2.filters=3", "range of layers is empty"),
        ("tinier-yolo:conv1-99999999999.filters=3", "layers 1 to 9, not 99999999999"),
        ("tinier-yolo:conv\udcff", "cannot read the change"),
        ("tinier-yolo:conv2.colour=3", "no field 'colour' there; there are filters"),
        ("tinier-yolo:conv2.filters=2.5", "filters must be an integer, not 2.5"),
        ("tinier-yolo:conv2.filters=1.2.3", "no number"),
        (f"tinier-yolo:conv{'9' * 5000}.filters=3", "conv9"),
        ("tinier-yolo:default_size_px=60.5", "default_size_px must be a whole number"),
        ("tinier-yolo:conv7.weight_copies=3", "not a multiple of 3 weight copies"),
        ("nonsense:conv7.weight_copies=3", "no model 'nonsense'"),
        ("table4/nonsense", "rows of table1, table2"),
    ],
)
def test_changes_that_make_no_model(name: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        zoo.get(name)


def test_rows_of_the_paper() -> None:
    assert len(paper.rows()) == len({row.name for row in paper.rows()}) and {row.table for row in paper.rows()} >= {"table2", "figure4"}
    partly = zoo.get("table3/conv2-8")
    assert [layer.weight_bits for layer in partly.layers] == [32, *[1] * 7, 32]
    assert [layer.input_bits for layer in zoo.get("table2/a4w4-8x").layers] == [8, *[4] * 8]
    assert [layer.weight_bits for layer in zoo.get("table5/bits-conv1-3").layers] == [3, 3, 2, *[1] * 6]
    assert paper.row("table6/dupnet+pact").activation == "pact" and paper.row("table6/dupnet").activation == "hwgq"
    with pytest.raises(SpecError, match="no 'table7'"):
        paper.rows("table7")


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
        ('name = "x"\n[[layers]]\nfilters = 6\nkernel = 2\n' + HEAD, "even kernel, here 2"),
        ('name = "x"\n[[layers]]\nfilters = 6\nkernel = 13\n' + HEAD, "kernel must be 1 to 11, not 13"),
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


def test_lists_make_the_same_spec() -> None:
    model = zoo.get("dupnet-tinier-yolo")
    head = HeadSpec([list(anchor) for anchor in model.head.anchors], model.head.centre_scale)  # type: ignore[arg-type, misc]
    assert ModelSpec(model.name, list(model.layers), head, model.about) == model  # type: ignore[arg-type]
    for wrong in ({"default_size_px": 416.5}, {"default_score": "high"}):
        with pytest.raises(SpecError, match=next(iter(wrong))):
            replace(model, **wrong)
