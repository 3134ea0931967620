"""One pass of a frozen backbone over a set of pictures, kept on disk.

What a head is trained on, and what exact ablation needs, is a few kilobytes a picture. It is stored in
shards, each written whole or not at all, so that a run killed at any moment goes on where it was. A picture
is known by its content: renamed, reordered or shared between sets, it is not computed again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ais.backbones import FrozenBackbone
from ais.datasets import listing
from ais.errors import AISError, DataError, ImageError
from ais.images import read_image
from ais.torch_state import own_state
from ais.views import View, ViewName

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]  # pictures done, pictures in all
Rows = dict[str, Tensor]  # of one picture: "embedding" (D,) and, where there is one, "delta" (C,)

_FORMAT = "1"  # of the shards; part of their key
_SHARD = 64  # pictures: what a killed run computes again at most
_BATCH = 16
_DECODERS = 2  # threads


@dataclass(frozen=True)
class EmbeddedSet:
    """What a backbone sees in N pictures.

    Attributes:
        embedding: (N, D) float32.
        delta: (N, C) float32, as `ais.backbones.Features.delta`; None where the backbone gives none.
        hashes: N times the SHA-256 of the picture's file.
    """

    embedding: Tensor
    delta: Tensor | None
    hashes: list[str]


def cache_directory() -> Path:
    """Where shards lie: ``$AIS_CACHE``, or ``~/.cache/ais``."""
    return Path(os.environ.get("AIS_CACHE") or Path.home() / ".cache" / "ais") / "embeddings"


@own_state()
def embed(
    files: Sequence[Path],
    backbone: FrozenBackbone,
    view: ViewName,
    *,
    progress: Progress | None = None,
    cache: bool = True,
) -> EmbeddedSet:
    """Embeddings of N pictures, from the cache as far as it has them.

    Args:
        files: the pictures.
        view: which part of a picture the network sees, "crop" or "whole".
        progress: called after every batch.
        cache: read and write shards below `cache_directory`.

    Raises:
        DataError: the pictures that cannot be read, all of them; the rest is cached by then.
        AISError: the cache cannot be written.
    """
    geometry = backbone.view(view)
    directory = cache_directory() / _key(backbone, geometry) if cache else None
    with ThreadPoolExecutor(_DECODERS) as pool:
        hashes = content_hashes(files)
        sources = dict(zip(hashes, files, strict=True))  # the same picture under two names is computed once
        known = _load(directory, set(sources)) if directory else {}
        todo = [name for name in sources if name not in known]
        done = len(sources) - len(todo)
        if progress and done:
            progress(done, len(sources))
        problems: list[str] = []
        for names, inputs in _decoded(pool, todo, sources, geometry):
            shard: dict[str, Rows] = {}
            for batch in _batches(names, inputs, problems):
                shard |= _run(backbone, batch)
                if progress:
                    progress(done + len(shard), len(sources))
            done += len(names)
            known |= shard
            if directory and shard:
                _store(directory, {name: shard[name] for name in names if name in shard})
    if problems:
        raise DataError(listing("Some pictures cannot be read", problems))
    return EmbeddedSet(
        embedding=torch.stack([known[name]["embedding"] for name in hashes]),
        delta=torch.stack([known[name]["delta"] for name in hashes]) if backbone.owner is not None else None,
        hashes=hashes,
    )


def content_hashes(files: Sequence[Path]) -> list[str]:
    """By what a picture is known: the SHA-256 of its file, hexadecimal."""
    with ThreadPoolExecutor(_DECODERS) as pool:
        return list(pool.map(_content_hash, files))


def _key(backbone: FrozenBackbone, view: View) -> str:
    """The folder of all shards that these settings give."""
    settings = [_FORMAT, backbone.name, backbone.weights_hash, backbone.layer, asdict(view)]
    return f"{backbone.name}-{view.name}-{_digest(json.dumps(settings).encode())[:16]}"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _content_hash(file: Path) -> str:
    """Of a file's bytes; a file that cannot be read has that of its name, and its decoder will say why."""
    digest = hashlib.sha256()
    try:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    except OSError:
        return _digest(os.fsencode(file))
    return digest.hexdigest()


def _decoded(
    pool: ThreadPoolExecutor, names: list[str], sources: dict[str, Path], view: View
) -> Iterator[tuple[list[str], list[Tensor | str]]]:
    """Shard by shard the network's inputs, each (3, h, w), or the sentence why there is none.

    The next shard is decoded while the caller works on this one.
    """

    def decode(name: str) -> Tensor | str:
        try:
            return view.tensor(read_image(sources[name]))
        except ImageError as error:
            return f"{sources[name]}: {error}"

    ahead: tuple[list[str], list[Future[Tensor | str]]] | None = None
    for start in range(0, len(names) + _SHARD, _SHARD):
        part = names[start : start + _SHARD]
        now, ahead = ahead, (part, [pool.submit(decode, name) for name in part])
        if now and now[0]:
            yield now[0], [future.result() for future in now[1]]


def _batches(
    names: list[str], inputs: list[Tensor | str], problems: list[str]
) -> Iterator[tuple[list[str], Tensor]]:
    """Pictures of one shape together, in bounded batches; the sentences go to `problems`."""
    shapes: dict[torch.Size, list[tuple[str, Tensor]]] = {}
    for name, value in zip(names, inputs, strict=True):
        if isinstance(value, str):
            problems.append(value)
        else:
            shapes.setdefault(value.shape, []).append((name, value))
    for alike in shapes.values():
        for start in range(0, len(alike), _BATCH):
            batch = alike[start : start + _BATCH]
            yield [name for name, _ in batch], torch.stack([picture for _, picture in batch])


def _run(backbone: FrozenBackbone, batch: tuple[list[str], Tensor]) -> dict[str, Rows]:
    names, pictures = batch
    features = backbone(pictures)
    values = {"embedding": features.embedding}
    if features.delta is not None:
        values["delta"] = features.delta
    values = {key: value.float().cpu() for key, value in values.items()}
    return {name: {key: value[i] for key, value in values.items()} for i, name in enumerate(names)}


def _store(directory: Path, shard: dict[str, Rows]) -> None:
    names = list(shard)
    keys = shard[names[0]].keys()
    tensors = {key: torch.stack([rows[key] for rows in shard.values()]) for key in keys}
    data = save(tensors, {"pictures": json.dumps(names), "sha256": _checksum(tensors)})
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=directory, suffix=".tmp")
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(data)
            Path(temporary).replace(directory / f"{_digest(''.join(names).encode())[:32]}.safetensors")
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise AISError(
            f"The cache {directory} cannot be written: {error.strerror or error}. "
            "Set AIS_CACHE to a folder that can."
        ) from error


def _load(directory: Path, wanted: set[str]) -> dict[str, Rows]:
    """What the shards hold of the wanted pictures."""
    known: dict[str, Rows] = {}
    for file in sorted(directory.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as shard:
                names = json.loads(shard.metadata()["pictures"])
                if wanted.isdisjoint(names):
                    continue
                tensors = {key: shard.get_tensor(key) for key in shard.keys()}  # noqa: SIM118
                if _checksum(tensors) != shard.metadata()["sha256"]:
                    raise ValueError("the checksum is another")
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("%s is damaged (%s): its pictures are computed again", file, error)
            file.unlink(missing_ok=True)
            continue
        for i, name in enumerate(names):
            if name in wanted:
                known[name] = {key: value[i] for key, value in tensors.items()}
    return known


def _checksum(tensors: dict[str, Tensor]) -> str:
    return _digest(b"".join(tensors[key].numpy().tobytes() for key in sorted(tensors)))
