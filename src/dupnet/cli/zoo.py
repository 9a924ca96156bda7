"""`dupnet zoo`: every model that has a name, and a spec as TOML."""

from __future__ import annotations

import json
from dataclasses import asdict

import click


@click.command()
@click.argument("name", required=False)
@click.option("--table", help="Only the rows of one of the paper's tables, such as table4 or figure3.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each model; with NAME, the spec as one.")
def command(name: str | None, table: str | None, as_json: bool) -> None:
    """List the models, or print the spec of the one called NAME as TOML.

    These names work wherever a spec is asked for: in `dupnet cost NAME`, `dupnet train RECIPE --spec NAME`, and as `spec` of a recipe.
    Any model derives others by changes behind a colon, several with commas between:

    \b
        dupnet cost tinier-yolo-half:conv6-8.weight_copies=4
        dupnet cost table2/a4w4-4x:conv2.map_copies=4,conv1.weight_bits=1

    A place is a layer (conv2), a range of layers (conv6-8) or head; fields of a layer are filters, kernel, pool, weight_bits, input_bits,
    weight_copies, map_copies, step and pool_overlap (32 bits: floats); head has centre_scale, and default_size_px and default_score stand
    alone. The list shows sizes as the paper counts them, at 608x608 pixels,
    and the paper's detection rates on FDDB, which are claims and not ours.
    """
    from dupnet import cost, paper, spec, zoo

    if name is not None:
        if table:
            raise click.UsageError(f"give NAME or --table, not {name} and {table}")
        found = zoo.get(name)
        click.echo(json.dumps(spec.to_dict(found)) + "\n" if as_json else spec.to_toml(found), nl=False)
        return
    listed = ([] if table else zoo.names()) + [row.name for row in paper.rows(table)]
    if not as_json:
        click.echo(f"{'name':24}{'KB':>10}{'MFLOPs':>10}  {'paper says':10}  spec")
    for model in listed:
        one, row = zoo.get(model), paper.row(model)
        total = cost.count(one).total
        if as_json:
            numbers = {"name": model, "weight_bytes": total.weight_bytes, "paper_mflops": total.paper_mflops}
            click.echo(json.dumps({**numbers, "about": one.about, "paper": asdict(row) if row else None}))
            continue
        about = (row.spec if row.activation == "hwgq" else f"{row.spec} (PACT)") if row else one.about
        click.echo(
            f"{model:24}{total.weight_bytes / 1024:10.1f}{total.paper_mflops:10.1f}  {row.detection_rate if row else '':10}  {about}"
        )
