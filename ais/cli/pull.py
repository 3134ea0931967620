"""`ais pull`: a head from the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ais.cli._options import AsJson, app
from ais.cli._output import ProgressBars, print_json, quality
from ais.errors import AISError


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
    from ais.heads.loading import find_head, load_from
    from ais.io.files import check_outputs, write_atomically
    from ais.io.hub import parse_repository
    from ais.publish.checks import file_names

    repository = parse_repository(repo, revision)
    if repository is None:
        raise AISError(f"{repo!r} is no repository of the Hub: name it as user/repo.")
    if out is not None:
        if out.is_dir() and any(out.iterdir()):
            raise AISError(f"{out} is not empty: choose an --out that is new, or empty it.")
        check_outputs(out, file_names(None))
    with ProgressBars("fetching"):
        found = find_head(repository)
        head = load_from(found)
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
