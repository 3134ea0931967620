"""`ais heads` and `ais backbones`."""

from __future__ import annotations

from dataclasses import asdict

import typer

from ais.backbones.registry import BACKBONES
from ais.cli.common import AsJson, app, print_json, print_table, quality
from ais.heads.format import read_config
from ais.heads.loading import heads_directory, list_heads


@app.command("heads")
def heads_command(as_json: AsJson = False) -> None:
    """The heads that come with AIS, what they predict and how well."""
    configs = [read_config(heads_directory() / name) for name in list_heads()]
    if as_json:
        print_json([asdict(config) for config in configs])
        return
    rows = [
        (
            c.name,
            f"{c.target.name}, {c.target.low:g} to {c.target.high:g}",
            c.reads,
            quality(c.metrics),
        )
        for c in configs
    ]
    print_table(("head", "predicts", "reads", "measured on held-out pictures"), rows)


@app.command("backbones")
def backbones_command(as_json: AsJson = False) -> None:
    """The backbones, and which weights this machine has."""
    entries = [
        {
            "name": name,
            "layer": spec.layer,
            "layers": list(spec.channelwise),
            "maps": len(spec.channelwise[spec.layer] or ()),
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
