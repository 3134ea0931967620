"""`ais backbones`: the networks, and which weights are here."""

from __future__ import annotations

import typer

from ais.cli._options import AsJson, app
from ais.cli._output import print_json, print_table


@app.command("backbones")
def backbones_command(as_json: AsJson = False) -> None:
    """The backbones, and which weights this machine has."""
    from ais.backbones.registry import BACKBONES

    entries = [
        {
            "name": name,
            "layer": spec.layer,
            "layers": list(spec.target_layers),
            "maps": len(spec.target_layers[spec.layer] or ()),
            "size": spec.size,
            "source": spec.source,
            "file": str(spec.weights_file),
            "available": spec.weights_file.is_file(),
            "note": spec.note,
        }
        for name, spec in BACKBONES.items()
    ]
    if as_json:
        print_json(entries)
        return
    rows = [
        (
            e["name"],
            e["layer"],
            f"{e['maps']} at {e['size']} px",
            "yes" if e["available"] else "no",
            e["note"],
        )
        for e in entries
    ]
    print_table(("backbone", "target layer", "maps", "here", "note"), rows)
    if not all(e["available"] for e in entries):
        typer.echo("\nWeights that are not here are fetched at first use. To place one by hand:", err=True)
        for e in entries:
            if not e["available"]:
                typer.echo(f"  {e['source']}\n    -> {e['file']}", err=True)
