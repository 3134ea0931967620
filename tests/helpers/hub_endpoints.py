"""What the local Hub holds, and what it answers as long as nothing fails: the endpoints that the client asks."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import yaml
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

if TYPE_CHECKING:
    from helpers.local_hub import LocalHub


COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}


@dataclass(frozen=True)
class Commit:
    id: str
    parent: str | None
    title: str
    files: Mapping[str, bytes] = field(repr=False)


@dataclass
class Repo:
    """A model ``user/name`` or a Space ``spaces/user/name``."""

    key: str
    private: bool = False
    gated: bool = False
    commits: dict[str, Commit] = field(default_factory=dict, repr=False)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    readers: set[str] = field(default_factory=set)  # whom a gated repository lets in, beside its owner

    @property
    def id(self) -> str:
        return self.key.removeprefix("spaces/")

    @property
    def owner(self) -> str:
        return self.id.split("/")[0]

    def at(self, revision: str) -> Commit:
        identity = self.branches.get(revision) or self.tags.get(revision) or revision
        if identity not in self.commits:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[identity]

    def commit(self, branch: str, title: str, files: Mapping[str, bytes]) -> Commit:
        parent = self.branches.get(branch)
        said = (
            f"{self.key} {parent} {title} {len(self.commits)} {sorted((n, oid(b)) for n, b in files.items())}"
        )
        made = Commit(hashlib.sha1(said.encode()).hexdigest(), parent, title, dict(files))
        self.commits[made.id] = made
        self.branches[branch] = made.id
        return made

    def history(self, commit: Commit) -> Iterator[Commit]:
        yield commit
        while commit.parent:
            commit = self.commits[commit.parent]
            yield commit


class Refusal(Exception):
    """An answer of the Hub's that is an error."""

    def __init__(
        self, status: int, message: str, code: str = "", headers: Mapping[str, str] | None = None, **body: Any
    ):
        super().__init__(message)
        self.status, self.body = status, {"error": message, **body}
        self.headers = {"X-Error-Message": message, **(headers or {})} | (
            {"X-Error-Code": code} if code else {}
        )


def oid(content: bytes) -> str:
    """git's name of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def etag(name: str, content: bytes) -> str:
    """Of a file as the Hub has it: large ones, which lie outside of git, have their SHA-256."""
    return hashlib.sha256(content).hexdigest() if name.endswith(".safetensors") else oid(content)


def now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def application(hub: LocalHub) -> FastAPI:
    """The endpoints over what a Hub holds. Paths arrive quoted, since the name of a branch may hold a slash."""
    app = FastAPI(openapi_url=None)

    @app.exception_handler(Refusal)
    async def refuse(_: Request, refusal: Refusal) -> JSONResponse:
        return JSONResponse(refusal.body, refusal.status, refusal.headers)

    def user_of(request: Request) -> tuple[str, bool]:
        """Who asks, "" for nobody, and whether they may write."""
        header = request.headers.get("authorization")
        if header is None:
            return "", False
        try:
            return hub.tokens[header.removeprefix("Bearer ")]
        except KeyError:
            raise Refusal(401, "Invalid credentials in Authorization header") from None

    def opened(request: Request, *, write: bool = False, fetch: bool = False) -> Repo:
        """The repository a request is about, if whoever asks may do what is asked."""
        kind, owner, name = (request.path_params.get(part, "models") for part in ("kind", "owner", "name"))
        user, may_write = user_of(request)
        repo = hub.repositories.get(f"spaces/{owner}/{name}" if kind == "spaces" else f"{owner}/{name}")
        if kind not in ("models", "spaces") or repo is None or (repo.private and user != repo.owner):
            # To somebody without a token the real Hub gives no code: the client knows it by its https address.
            raise Refusal(404 if user else 401, "Repository not found", "RepoNotFound")
        if fetch and repo.gated and user != repo.owner and user not in repo.readers:
            raise Refusal(403 if user else 401, f"Access to model {repo.id} is restricted.", "GatedRepo")
        if write and not user:
            raise Refusal(401, "Invalid username or password.")
        if write and not (user == repo.owner and may_write):
            raise Refusal(403, "Forbidden: this token has no write access to the repository")
        return repo

    def revision(request: Request) -> str:
        return unquote(request.path_params.get("rev", "main"))

    @app.get("/api/whoami-v2")
    async def whoami(request: Request) -> dict[str, Any]:
        user, write = user_of(request)
        if not user:
            raise Refusal(401, "Invalid username or password.")
        token = {"displayName": "test", "role": "write" if write else "read"}
        return {"type": "user", "name": user, "orgs": [], "auth": {"accessToken": token}}

    @app.post("/api/validate-yaml")
    async def validate(request: Request) -> JSONResponse:
        asked = await request.json()
        errors, warnings = card_faults(asked["content"], asked["repoType"])
        said = {
            key: [{"message": text} for text in texts]
            for key, texts in (("errors", errors), ("warnings", warnings))
        }
        return JSONResponse(said, 400 if errors else 200)

    @app.get("/api/collections/{slug:path}")
    async def collection(request: Request, slug: str) -> dict[str, Any]:
        user, _ = user_of(request)
        found = hub.collections.get(unquote(slug))
        if found is None or (found["private"] and found["owner"]["name"] != user):
            raise Refusal(404, "Collection not found")
        return found

    @app.post("/api/repos/create")
    async def create(request: Request) -> dict[str, Any]:
        asked = await request.json()
        user, write = user_of(request)
        owner = asked["organization"] or user
        kind = asked.get("type", "model")
        if not user:
            raise Refusal(401, "Invalid username or password.")
        if owner != user or not write:
            raise Refusal(403, f'You don\'t have the rights to create a {kind} under the namespace "{owner}"')
        key = ("spaces/" if kind == "space" else "") + f"{owner}/{asked['name']}"
        url = f"{hub.url}/{key}"
        if key in hub.repositories:
            raise Refusal(409, f"You already created this {kind} repo", url=url)
        repo = hub.create(key)
        repo.private = asked.get("visibility") == "private"
        repo.variables.update({v["key"]: v["value"] for v in asked.get("variables", [])})
        return {"url": url, "name": repo.id}

    @app.get("/api/{kind}/{owner}/{name}")
    @app.get("/api/{kind}/{owner}/{name}/revision/{rev}")
    async def info(request: Request) -> dict[str, Any]:
        repo = opened(request)
        commit = repo.at(revision(request))
        blobs = bool(request.query_params.get("blobs"))
        return {
            "id": repo.id,
            "author": repo.owner,
            "sha": commit.id,
            "private": repo.private,
            "gated": "auto" if repo.gated else False,
            "disabled": False,
            "lastModified": now(),
            "tags": [],
            "cardData": front_matter(commit.files.get("README.md", b"").decode()) or {},
            "siblings": [
                {"rfilename": name} | ({"size": len(body), "blobId": oid(body)} if blobs else {})
                for name, body in sorted(commit.files.items())
            ],
        }

    @app.get("/api/{kind}/{owner}/{name}/refs")
    async def refs(request: Request) -> dict[str, Any]:
        repo = opened(request)

        def named(names: Mapping[str, str], folder: str) -> list[dict[str, str]]:
            return [{"name": n, "ref": f"refs/{folder}/{n}", "targetCommit": c} for n, c in names.items()]

        return {"branches": named(repo.branches, "heads"), "tags": named(repo.tags, "tags"), "converts": []}

    @app.get("/api/{kind}/{owner}/{name}/commits/{rev}")
    async def commits(request: Request) -> list[dict[str, Any]]:
        repo = opened(request)
        return [
            {"id": c.id, "title": c.title, "message": "", "date": now(), "authors": [{"user": repo.owner}]}
            for c in repo.history(repo.at(revision(request)))
        ]

    @app.get("/api/{kind}/{owner}/{name}/tree/{rev}")
    @app.get("/api/{kind}/{owner}/{name}/tree/{rev}/{folder:path}")
    async def tree(request: Request, folder: str = "") -> list[dict[str, Any]]:
        files = opened(request).at(revision(request)).files
        prefix = unquote(folder) + "/" if folder else ""
        found = listed({name: body for name, body in files.items() if name.startswith(prefix)})
        if folder and not found:
            raise Refusal(404, f"{unquote(folder)} does not exist", "EntryNotFound")
        inside = [item for item in found if item["path"].startswith(prefix)]
        if request.query_params.get("recursive", "").lower() in ("true", "1"):
            return inside
        return [item for item in inside if "/" not in item["path"][len(prefix) :]]

    @app.post("/api/{kind}/{owner}/{name}/preupload/{rev}")
    async def preupload(request: Request) -> dict[str, Any]:
        held = opened(request, write=True).at(revision(request)).files
        names = [item["path"] for item in (await request.json())["files"]]
        return {
            "files": [
                {
                    "path": name,
                    "uploadMode": "regular",
                    "shouldIgnore": False,
                    "oid": oid(held[name]) if name in held else None,
                }
                for name in names
            ]
        }

    @app.post("/api/{kind}/{owner}/{name}/commit/{rev}")
    async def commit(request: Request) -> dict[str, Any]:
        lines = [json.loads(line) for line in (await request.body()).splitlines()]
        repo, branch = opened(request, write=True), revision(request)
        if branch not in repo.branches:
            raise Refusal(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        header = lines[0]["value"]
        if header.get("parentCommit", repo.branches[branch]) != repo.branches[branch]:
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        files = dict(repo.at(branch).files)
        for line in lines[1:]:
            path, content = line["value"]["path"], line["value"].get("content", "")
            if line["key"] == "file":
                files[path] = base64.b64decode(content)
                continue
            gone = [n for n in files if n == path or (line["key"] == "deletedFolder" and n.startswith(path))]
            if not gone:
                raise Refusal(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
            for name in gone:
                del files[name]
        made = repo.commit(branch, header["summary"], files)
        return {
            "success": True,
            "commitOid": made.id,
            "commitUrl": f"{hub.url}/{repo.key}/commit/{made.id}",
        }

    @app.post("/api/{kind}/{owner}/{name}/branch/{rev}")
    async def branch(request: Request) -> dict[str, Any]:
        repo, name = opened(request, write=True), revision(request)
        if name in repo.branches:
            raise Refusal(409, f"Reference already exists: {name}")
        asked = await request.body()
        start = json.loads(asked).get("startingPoint", "main") if asked else "main"
        repo.branches[name] = repo.at(start).id
        return {}

    @app.post("/api/{kind}/{owner}/{name}/tag/{rev}")
    async def tag(request: Request) -> dict[str, Any]:
        repo, name = opened(request, write=True), (await request.json())["tag"]
        if name in repo.tags:
            raise Refusal(409, f"Tag reference exists already: {name}")
        repo.tags[name] = repo.at(revision(request)).id
        return {}

    @app.api_route("/api/{kind}/{owner}/{name}/variables", methods=["GET", "POST"])
    async def variables(request: Request) -> dict[str, Any]:
        repo = opened(request, write=True)
        if request.method == "POST":
            asked = await request.json()
            repo.variables[asked["key"]] = asked["value"]
        return {key: {"key": key, "value": value} for key, value in repo.variables.items()}

    @app.api_route("/{owner}/{name}/resolve/{rev}/{path:path}", methods=["GET", "HEAD"])
    @app.api_route("/{kind}/{owner}/{name}/resolve/{rev}/{path:path}", methods=["GET", "HEAD"])
    async def resolve(request: Request, path: str) -> Response:
        commit = opened(request, fetch=True).at(revision(request))
        headers = {"X-Repo-Commit": commit.id, "Accept-Ranges": "bytes"}
        if unquote(path) not in commit.files:
            raise Refusal(404, "Entry not found", "EntryNotFound", headers=headers)
        content = commit.files[unquote(path)]
        return partial(request, content, headers | {"ETag": f'"{etag(unquote(path), content)}"'})

    @app.get("/blobs/{wanted}")
    async def blob(request: Request, wanted: str) -> Response:
        every = (
            body
            for repo in hub.repositories.values()
            for c in repo.commits.values()
            for body in c.files.values()
        )
        return partial(request, next(body for body in every if oid(body) == wanted), {})

    return app


def partial(request: Request, content: bytes, headers: dict[str, str]) -> Response:
    """The content, or what the request's Range asks for."""
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
    kind = "application/octet-stream"
    if asked is None:
        return Response(content, media_type=kind, headers=headers)
    first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
    if first > last:
        return Response(status_code=416, headers={"Content-Range": f"bytes */{len(content)}"})
    headers |= {"Content-Range": f"bytes {first}-{last}/{len(content)}"}
    return Response(content[first : last + 1], 206, headers, kind)


def listed(files: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """All files and folders, as the Hub lists a tree."""
    folders = {str(parent) for name in files for parent in PurePosixPath(name).parents} - {"."}
    return [
        {"type": "directory", "path": name, "oid": oid(name.encode()), "size": 0} for name in sorted(folders)
    ] + [
        {"type": "file", "path": name, "oid": oid(body), "size": len(body)}
        for name, body in sorted(files.items())
    ]


def front_matter(card: str) -> Any:
    """What stands between the dashes at a card's beginning; None if there are none."""
    found = re.match(r"---\r?\n(.*?)\r?\n---(\r?\n|$)", card, re.DOTALL)
    return yaml.safe_load(found[1]) if found else None


def card_faults(card: str, kind: str) -> tuple[list[str], list[str]]:
    """Errors and warnings about a README's front matter: those of the Hub's rules that we could break."""
    try:
        said = front_matter(card)
    except yaml.YAMLError as error:
        return [f"YAML: {error}"], []
    if not said:
        return [], ["empty or missing yaml metadata in repo card"]
    rules = {
        "short_description": lambda value: len(value) <= 60,
        "colorFrom": COLOURS.__contains__,
        "colorTo": COLOURS.__contains__,
        "sdk": {"gradio", "docker", "static"}.__contains__,
        "tags": lambda value: all(isinstance(tag, str) for tag in value),
        "base_model": lambda value: all(
            re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name)
            for name in ([value] if isinstance(value, str) else value)
        ),
        "model-index": lambda value: all(
            {"type", "name"} <= {*result["dataset"]}
            and result["task"]["type"]
            and all({"type", "value"} <= {*m} for m in result["metrics"])
            for model in value
            for result in model["results"]
        ),
    }
    errors = [f'"{key}" is not valid' for key, rule in rules.items() if key in said and not rule(said[key])]
    if kind == "space":
        errors += [f'"{key}" is required' for key in ("sdk", "title") if key not in said]
    return errors, []
