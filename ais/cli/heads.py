"""`ais heads`: the heads that come with AIS."""

from __future__ import annotations

from dataclasses import asdict

from ais.cli._options import AsJson, app
from ais.cli._output import print_json, print_table, quality


@app.command("heads")
def heads_command(as_json: AsJson = False) -> None:
    """The heads that come with AIS, what they predict and how well."""
    from ais.heads.format import read_config
    from ais.heads.loading import heads_directory, list_heads

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
