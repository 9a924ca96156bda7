"""`dupnet search`: duplication factors for a budget."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from dupnet.cli.parameters import SIZE_HW, FiniteRange


@click.command()
@click.option("--weights-kb", required=True, type=FiniteRange(0, min_open=True), help="Stored weights, in KB of 1,024 bytes.")
@click.option("--macs", type=FiniteRange(0, min_open=True), help="Multiply-adds in millions, as `dupnet cost` counts them.")
@click.option("--maps-kb", type=FiniteRange(0, min_open=True), help="Maps that exist at once, in KB, as `dupnet cost` counts them.")
@click.option("--size", type=SIZE_HW, default="608x608", show_default=True, help="Width x height of the input, for MACs and maps.")
@click.option("--base", default="tinier-yolo-half", show_default=True, help="The layers: a name of `dupnet zoo` or a TOML file.")
@click.option(
    "--sensitivity", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="sensitivity.json of `dupnet sensitivity`."
)
@click.option("--name", default="", help="Of the new spec.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the spec here, as TOML.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    weights_kb: float,
    macs: float | None,
    maps_kb: float | None,
    size: tuple[int, int],
    base: str,
    sensitivity: Path | None,
    name: str,
    out: Path | None,
    as_json: bool,
) -> None:
    """Propose which layers store fewer weights and which read their maps several times, within a budget, and say why.

    The rule and its sources are in docs/recipes.md. Without --sensitivity it uses the order that the paper measured.
    """
    from dupnet import cost, files, zoo
    from dupnet import search as rule
    from dupnet.spec import to_dict, to_toml

    if out and out.suffix != ".toml":
        raise click.BadParameter(f"a spec's name ends in .toml, {out} does not", param_hint="--out")
    start = zoo.get(base)
    costs = rule.read_sensitivity(sensitivity, start) if sensitivity else None
    found = rule.search(start, rule.Budget(weights_kb, macs, maps_kb, size), name=name, sensitivity=costs)
    total = cost.count(found.spec, size).total
    if out:
        files.write_text(out, "".join(f"# {reason}\n" for reason in found.reasons) + to_toml(found.spec))
    if as_json:
        numbers = {key: value for key, value in asdict(total).items() if key != "name"}
        click.echo(json.dumps({"reasons": found.reasons, "size_hw": size, **numbers, "spec": to_dict(found.spec)}))
        return
    click.echo("\n".join(found.reasons) + "\n")
    for number, layer in enumerate(found.spec.layers, 1):
        copies = [f"{n} {kind} copies" for n, kind in ((layer.weight_copies, "weight"), (layer.map_copies, "map")) if n > 1]
        click.echo(f"Conv{number:<3}{layer.filters:5} filters {layer.kernel}x{layer.kernel}  {', '.join(copies)}".rstrip())
    click.echo(
        f"\n{found.spec.name}: {total.weight_bytes / 1024:.2f} KB of weights, {total.macs / 1e6:,.0f} million MACs, "
        f"{total.paper_mflops:.1f} MFLOPs by the paper's rule, {total.map_bytes / 1024:.1f} KB of maps at {size[1]}x{size[0]}"
    )
    if out:
        click.echo(f"{out}")
