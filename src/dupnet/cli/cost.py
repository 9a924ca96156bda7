"""`dupnet cost`: bytes, multiply-adds and memory of a model."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from dupnet.cli.parameters import SIZE_HW

if TYPE_CHECKING:
    from dupnet.spec import ModelSpec


@click.command()
@click.argument("model")
@click.option("--size", type=SIZE_HW, help="Width x height of the network's input.  [default: 608x608; a classifier's own]")
@click.option("--against-float", is_flag=True, help="Compare with the same quantized network computed in floats, as IFQ-Net's paper does.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: the totals, and a list of layers.")
def command(model: str, size: tuple[int, int] | None, against_float: bool, as_json: bool) -> None:
    """Print what MODEL costs: a name that `dupnet zoo` lists, a spec as a TOML file, or either with changes.

    Changes stand behind a colon, such as tinier-yolo-half:conv6-8.weight_copies=4,conv2.map_copies=4; `dupnet zoo --help` tells more.
    "eresfd" is the float detector EResFD, counted module by module (this needs torch).
    """
    if model == "eresfd":
        if against_float:
            raise click.UsageError("eresfd has no quantized layers; --against-float is about those")
        _eresfd(size or (608, 608), as_json)
        return
    from dupnet import cost, zoo

    spec = zoo.get(model)
    size = size or ((spec.default_size_px, spec.default_size_px) if spec.head.classes else (608, 608))
    if against_float:
        _against_float(spec, size, as_json)
        return
    result = cost.count(spec, size)
    if as_json:
        totals = {key: value for key, value in asdict(result.total).items() if key != "name"}
        layers = [asdict(layer) for layer in result.layers]
        click.echo(json.dumps({"model": result.model, "size_hw": result.size_hw, **totals, "layers": layers}, indent=2))
        return
    click.echo(f"{result.model} at {size[1]}x{size[0]} pixels\n")
    click.echo(f"{'':8}{'weights':>12}{'file':>10}{'MACs':>12}{'paper':>12}{'after':>12}{'maps':>12}")
    click.echo(f"{'':8}{'KB':>12}{'uncoded':>10}{'million':>12}{'MFLOPs':>12}{'shortcuts':>12}{'KB':>12}")
    for line in (*result.layers, result.total):
        file = "-" if line.file_bytes is None else str(line.file_bytes)
        click.echo(
            f"{line.name:8}{line.weight_bytes / 1024:12.3f}{file:>10}{line.macs / 1e6:12.1f}{line.paper_mflops:12.1f}"
            f"{line.effective_macs / 1e6:12.1f}{line.map_bytes / 1024:12.1f}"
        )
    click.echo()
    if spec.is_integer:
        click.echo("The file has a header besides its layers, and is smaller than this, because thresholds and some weights are coded.")
    click.echo("The total of the maps is the largest layer's (read + written).")


def _against_float(spec: ModelSpec, size: tuple[int, int], as_json: bool) -> None:
    from dupnet import cost

    lines = cost.forms(spec, size)
    if as_json:
        table = {"model": spec.name, "size_hw": size, "assumptions": cost.FORM_ASSUMPTIONS, "layers": [asdict(line) for line in lines]}
        click.echo(json.dumps(table, indent=2))
        return
    click.echo(f"{spec.name} at {size[1]}x{size[0]} pixels: quantized in floats -> converted to integers, KB\n")
    click.echo(f"{'':8}{'weights':>26}{'maps written':>34}{'maps at once':>34}")

    def saved(before: float, after: float, width: int) -> str:
        return f"{f'{before / 1024:,.1f} -> {after / 1024:,.1f}':>{width - 8}}{f'{before / after:.2f}x':>8}"

    for line in lines:
        weights = saved(line.float_weight_bytes, line.integer_weight_bytes, 30)
        click.echo(
            f"{line.name:6}{weights}{saved(line.float_map_bytes, line.integer_map_bytes, 30)}"
            f"{saved(line.float_peak_bytes, line.integer_peak_bytes, 34)}"
        )
    click.echo("\nThe total of the maps at once is the largest layer's. IFQ-Net's paper claims 2.16x for the model and 18x for the maps.\n")
    for assumption in cost.FORM_ASSUMPTIONS:
        click.echo(f"- {assumption}")


def _eresfd(size: tuple[int, int], as_json: bool) -> None:
    from dupnet.nn import eresfd

    modules = eresfd.costs(eresfd.EResFD(), size)
    parameters, macs = sum(module.parameters for module in modules), sum(module.macs for module in modules)
    if as_json:
        layers = [module._asdict() for module in modules]
        click.echo(json.dumps({"model": "eresfd", "size_hw": size, "parameters": parameters, "macs": macs, "layers": layers}, indent=2))
        return
    click.echo(f"eresfd at {size[1]}x{size[0]} pixels\n")
    click.echo(f"{'':28}{'parameters':>12}{'MACs, million':>16}")
    for name, own, work in (*modules, ("total", parameters, macs)):
        click.echo(f"{name:28}{own:12,}{work / 1e6:16.2f}")
