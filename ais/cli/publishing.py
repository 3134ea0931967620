"""`ais push` and `ais pull`: heads to the Hugging Face Hub and from there."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ais.cli.common import AsJson, Bars, app, print_json, quality
from ais.errors import AISError
from ais.heads.format import read_config
from ais.heads.loading import find_head, load_found
from ais.io.files import check_outputs, write_atomically
from ais.io.hub import parse_repository
from ais.publish.checks import file_names
from ais.publish.push import push_head, repository_to_push
from ais.publish.space import push_space

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
    if (folder is None) != (repo is None) or (folder is None and space is None):
        raise AISError(
            "Say what to push and where: `ais push FOLDER USER/REPO`, or `ais push --space USER/SPACE`."
        )
    if space:
        space = repository_to_push(space).id
    done = {}
    if folder is not None and repo is not None:
        repository = repository_to_push(repo, revision)
        with Bars("pushing"):
            done["head"] = push_head(folder, repository, private=private, space=space or "")
        if not read_config(folder).about:
            typer.echo(
                f"Its card does not say whose ratings it learned, of which pictures: `ais card {folder} --about …`.",
                err=True,
            )
    if space:
        heads = [str(repository_to_push(repo, revision))] if repo else []
        with Bars("pushing"):
            done["Space"] = push_space(space, heads, private=private)
    if as_json:
        print_json({what: asdict(pushed) for what, pushed in done.items()})
        return
    for what, pushed in done.items():
        said = f"The {what} is at" if pushed.changed else f"The {what} was there as it is, at"
        typer.echo(f"{said} {pushed.url}\n  commit {pushed.commit}")


@app.command("pull")
def pull_command(
    repo: Annotated[str, typer.Argument(help="USER/REPO on the Hub, or USER/REPO@REVISION.")],
    revision: Annotated[
        str | None, typer.Option("--revision", help="A branch, a tag or a commit [default: main].")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="A folder for a copy [default: the Hub's cache only].")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fetch a head from the Hugging Face Hub and check it; then it works without network, too.

    A head need not be pulled to be used: every --head takes its id.
    """
    repository = parse_repository(repo, revision)
    if repository is None:
        raise AISError(f"{repo!r} is no repository of the Hub: name it as user/repo.")
    if out is not None:
        if out.is_dir() and any(out.iterdir()):
            raise AISError(f"{out} is not empty: choose an --out that is new, or empty it.")
        check_outputs(out, file_names(None))
    with Bars("fetching"):
        found = find_head(repository)
        head = load_found(found)
        wanted = file_names(head.config)
        names = [name for name in wanted if found.fetch_optional(name)]
    for name in sorted(set(wanted) - set(names)):
        typer.echo(f"{name} could not be fetched; the head works without it.", err=True)
    folder = found.folder
    if out is not None:
        write_atomically(out, {name: (found.folder / name).read_bytes() for name in names})
        folder = out
    if as_json:
        commit = head.repository.revision if head.repository else ""
        print_json(
            {
                "name": head.config.name,
                "repository": repository.id,
                "revision": repository.revision,
                "commit": commit,
                "folder": str(folder),
                "files": names,
                "notice": head.notice,
            }
        )
        return
    typer.echo(f"{head.config.name}: {quality(head.config.metrics)}")
    typer.echo(f"  {head.repository}\n  {folder}")
