"""`ais push`: a head, and the page, to the Hugging Face Hub."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ais.cli._options import AsJson, app
from ais.cli._output import ProgressBars, print_json
from ais.errors import AISError

Private = Annotated[bool, typer.Option("--private", help="Make what is new private.")]


@app.command("push")
def push_command(
    folder: Annotated[Path | None, typer.Argument(help="A head's folder.", show_default=False)] = None,
    repo: Annotated[
        str | None, typer.Argument(help="Where to: USER/REPO on the Hub.", show_default=False)
    ] = None,
    private: Private = False,
    revision: Annotated[
        str | None, typer.Option("--revision", help="A branch; made if it is new [default: main].")
    ] = None,
    space: Annotated[
        str | None,
        typer.Option(
            "--space", help="USER/SPACE: make or update a Space of the page, which offers the head."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Publish a head's folder on the Hugging Face Hub, the page as a Space, or both.

    The folder is checked first: it has to load, its card has to be in step with its config, and it may hold no secret
    and nothing else. Pushing the same again makes no commit.
    """
    from ais.heads.format import read_config
    from ais.publish.push import push_head, repository_to_push
    from ais.publish.space import push_space

    if (folder is None) != (repo is None) or (folder is None and space is None):
        raise AISError(
            "Say what to push and where: `ais push FOLDER USER/REPO`, or `ais push --space USER/SPACE`."
        )
    if space:
        space = repository_to_push(space).id
    done = {}
    if folder is not None and repo is not None:
        repository = repository_to_push(repo, revision)
        with ProgressBars("pushing"):
            done["head"] = push_head(folder, repository, private=private, space=space or "")
        if not read_config(folder).about:
            typer.echo(
                f"Its card does not say on whose ratings of which pictures it was trained: "
                f"`ais card {folder} --about …`.",
                err=True,
            )
    if space:
        heads = [str(repository_to_push(repo, revision))] if repo else []
        with ProgressBars("pushing"):
            done["Space"] = push_space(space, heads, private=private)
    if as_json:
        print_json({what: asdict(pushed) for what, pushed in done.items()})
        return
    for what, pushed in done.items():
        said = f"The {what} is at" if pushed.changed else f"The {what} was there as it is, at"
        typer.echo(f"{said} {pushed.url}\n  commit {pushed.commit}")
