"""`ais heads`: the heads that come with AIS."""

from __future__ import annotations

from dataclasses import asdict

from ais.cli._options import AsJson, app
from ais.cli._output import print_json, print_table, quality


@app.command("heads")
def heads_command(as_json: AsJson = False) -> None:
    """The heads that come with AIS, what they predict and how well."""
    from ais.heads.format import read_config
    from ais.heads.shipped import heads_directory, list_heads
    from ais.heads.tasks import TASKS

    configs = [read_config(heads_directory() / name) for name in list_heads()]
    if as_json:
        tasks = [TASKS[config.task] for config in configs]
        print_json(
            [
                asdict(config) | {"task_label": task.label, "task_about": task.about}
                for config, task in zip(configs, tasks, strict=True)
            ]
        )
        return
    rows = [
        (
            c.name,
            TASKS[c.task].label,
            ", ".join(filter(None, [c.predicts, c.scale])),
            c.backbone_label,
            quality(c.metrics),
        )
        for c in configs
    ]
    print_table(("head", "task", "predicts", "reads", "measured on held-out pictures"), rows)
