"""One pass of frozen backbones over pictures, kept on disk.

What a head is trained on, and what exact ablation needs, is a few kilobytes a picture. It is stored in
shards, each written whole or not at all, so that a run killed at any moment goes on where it was. A picture
is known by its content: renamed, reordered or shared between sets, it is not computed again.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import stat
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ais.backbones.frozen import FrozenBackbone
from ais.errors import NO_MEMORY, AISError, DataError, ImageError, listing
from ais.images.guards import MAX_BYTES
from ais.images.reading import read_image
from ais.io.files import write_atomically
from ais.progress import Progress
from ais.torch_state import own_state

logger = logging.getLogger(__name__)

Rows = dict[str, Tensor]  # of one picture: "embedding" (D,) and, where there is one, "delta" (C,)

_FORMAT = "2"  # of the shards, and of how pictures are decoded; part of their key

_SHARD = 64  # pictures in a file

_AHEAD = 32  # pictures that are decoded while the network works on as many

_BATCH = 16

_BATCH_ON_CPU = 4  # whose maps fit into its caches: nearly twice as fast as 16

_DECODERS = min(4, os.cpu_count() or 1)  # threads


class NamedBytes(io.BytesIO):
    """A picture's bytes, and the name that sentences call it by."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name


ImageFile = str | Path | NamedBytes


@dataclass(frozen=True, eq=False)
class EmbeddedSet:
    """What a backbone sees in N pictures.

    Attributes:
        embedding: (N, D) float32.
        delta: (N, C) float32, as `ais.backbones.frozen.Features.delta`; None where the backbone gives none.
        hashes: N times the SHA-256 of the picture's file.
    """

    embedding: Tensor
    delta: Tensor | None
    hashes: list[str]


@dataclass(eq=False)
class Embedded:
    """What several backbones see in one picture.

    Attributes:
        rows: of each backbone, on the CPU.
        sha256: of the picture's file.
        problem: the sentence why there is nothing, if there is nothing.
    """

    rows: list[Rows]
    sha256: str = ""
    problem: str = ""
    inputs: list[Tensor | None] = field(
        default_factory=list, repr=False
    )  # (3, h, w), where rows are to be computed


def cache_directory() -> Path:
    """Where shards lie: ``$AIS_CACHE``, or ``~/.cache/ais``.

    Raises:
        RuntimeError: there is no home folder.
    """
    return Path(os.environ.get("AIS_CACHE") or Path.home() / ".cache" / "ais") / "embeddings"


@own_state()
def embed(
    files: Sequence[Path],
    backbone: FrozenBackbone,
    *,
    progress: Progress | None = None,
    cache: bool = True,
) -> EmbeddedSet:
    """Embeddings of N pictures, from the cache as far as it has them.

    Args:
        files: the pictures.
        progress: called after every picture.
        cache: read and write shards below `cache_directory`.

    Raises:
        DataError: the pictures that cannot be read, all of them; the rest is cached by then.
    """
    problems: list[str] = []
    found: list[Embedded] = []
    for file, embedded in zip(files, embed_each(files, [backbone], cache=cache), strict=True):
        if embedded.problem:
            problems.append(f"{file}: {embedded.problem}")
        found.append(embedded)
        if progress:
            progress(len(found), len(files))
    if problems:
        raise DataError(listing("Some pictures cannot be read", problems))
    rows = [embedded.rows[0] for embedded in found]
    return EmbeddedSet(
        embedding=torch.stack([row["embedding"] for row in rows]),
        delta=torch.stack([row["delta"] for row in rows]) if backbone.embedding_slice is not None else None,
        hashes=[embedded.sha256 for embedded in found],
    )


def embed_each(
    images: Sequence[ImageFile], backbones: Sequence[FrozenBackbone], *, cache: bool = True
) -> Iterator[Embedded]:
    """What backbones see in pictures, one after the other, in their order, as soon as it is known.

    A picture is read and decoded once, whatever the number of backbones, and not decoded if the cache has it. One that
    cannot be read gives a sentence; the others go on. A cache that cannot be written is said, and done without.
    What was computed is in the cache even if the caller stops.
    """
    caches = [_Cache.of(backbone) if cache else None for backbone in backbones]
    pool = ThreadPoolExecutor(_DECODERS)

    def decode(image: ImageFile) -> Embedded:
        return _decode(image, backbones, caches)

    try:
        ahead: list[Future[Embedded]] = []
        for start in range(0, len(images) + _AHEAD, _AHEAD):
            now, ahead = ahead, [pool.submit(decode, image) for image in images[start : start + _AHEAD]]
            yield from _compute([future.result() for future in now], backbones, caches)
    finally:
        pool.shutdown(cancel_futures=True)
        for each in caches:
            if each is not None:
                each.flush()


def content_hashes(files: Sequence[Path]) -> list[str]:
    """By what a picture is known: the SHA-256 of its file, hexadecimal."""
    with ThreadPoolExecutor(_DECODERS) as pool:
        return list(pool.map(_content_hash, files))


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


# Decoding, and the networks' pass --------------------------------------------------------------------------------


def _decode(
    image: ImageFile, backbones: Sequence[FrozenBackbone], caches: Sequence[_Cache | None]
) -> Embedded:
    """One picture's rows from the caches, and the inputs of the networks whose cache has none."""
    try:
        data = _read(image)
        if data is None:
            read_image(image)  # which says why
            raise ImageError("The picture was changed while it was read.")
        embedded = Embedded([], _digest(data))
        embedded.rows = [(cache and cache.get(embedded.sha256)) or {} for cache in caches]
        if all(embedded.rows):
            return embedded
        name = image.name if isinstance(image, NamedBytes) else os.fspath(image)
        decoded = read_image(NamedBytes(data, name))
        embedded.inputs = [
            None if rows else backbone.preprocessing(decoded)
            for rows, backbone in zip(embedded.rows, backbones, strict=True)
        ]
        return embedded
    except ImageError as error:
        return Embedded([], problem=str(error))
    except MemoryError:
        return Embedded([], problem=NO_MEMORY)
    except Exception as error:  # one picture must not end the run
        logger.debug("%s", image, exc_info=True)
        return Embedded([], problem=f"The picture cannot be used ({type(error).__name__}: {error}).")


def _read(image: ImageFile) -> bytes | None:
    """A plain file's bytes; None for what `read_image` refuses without reading it."""
    if isinstance(image, NamedBytes):
        return image.getvalue()
    try:
        state = Path(image).stat()
        if not stat.S_ISREG(state.st_mode) or state.st_size > MAX_BYTES:
            return None
        return Path(image).read_bytes()
    except (OSError, ValueError):
        return None


def _compute(
    images: list[Embedded],
    backbones: Sequence[FrozenBackbone],
    caches: Sequence[_Cache | None],
) -> Iterator[Embedded]:
    """The pictures with what their networks saw, in their order, each as soon as those before it are done."""
    given = 0
    for number, (backbone, cache) in enumerate(zip(backbones, caches, strict=True)):
        on_cpu = next(backbone.parameters()).device.type == "cpu"
        for batch in _batches(images, number, _BATCH_ON_CPU if on_cpu else _BATCH):
            inputs = torch.stack([embedded.inputs[number] for embedded in batch])  # type: ignore[misc]
            for embedded, rows in zip(batch, _run(backbone, inputs), strict=True):
                embedded.rows[number], embedded.inputs[number] = rows, None
                if cache is not None:
                    cache.put(embedded.sha256, rows)
            while given < len(images) and all(images[given].rows):
                yield images[given]
                given += 1
    yield from images[given:]


def _batches(images: list[Embedded], number: int, most: int) -> Iterator[list[Embedded]]:
    """Pictures whose inputs for this network are of one shape together, at most so many at once."""
    shapes: dict[torch.Size, list[Embedded]] = {}
    for embedded in images:
        inputs = embedded.inputs[number] if embedded.inputs else None
        if inputs is not None:
            shapes.setdefault(inputs.shape, []).append(embedded)
    for alike in shapes.values():
        for start in range(0, len(alike), most):
            yield alike[start : start + most]


@own_state()
def _run(backbone: FrozenBackbone, inputs: Tensor) -> list[Rows]:
    features = backbone(inputs)
    values = {"embedding": features.embedding}
    if features.delta is not None:
        values["delta"] = features.delta
    values = {key: value.float().cpu() for key, value in values.items()}
    return [{key: value[i] for key, value in values.items()} for i in range(len(inputs))]


# The cache --------------------------------------------------------------------------------------------------


class _Cache:
    """The shards of one backbone and view.

    Looked up by several threads at once, written by one.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._places: dict[str, Path] = {}  # the shard that holds a picture
        self._pending: dict[str, Rows] = {}  # computed, and not in a shard yet
        self._writable = True
        for file in sorted(directory.glob("*.safetensors")):
            try:
                with safe_open(file, framework="pt") as shard:
                    self._places |= dict.fromkeys(json.loads(shard.metadata()["pictures"]), file)
            except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
                self._drop(file, error)
        self._shard = lru_cache(maxsize=64)(_read_shard)

    @classmethod
    def of(cls, backbone: FrozenBackbone) -> _Cache | None:
        """None, and a warning, where there can be none."""
        if backbone.changed():  # what its hash stands for is another network's
            _warn(
                f"The weights of {backbone.name} were changed after it was made: make a new FrozenBackbone."
            )
            return None
        seen = backbone.preprocessing
        settings = [_FORMAT, backbone.name, backbone.sha256, backbone.layer, asdict(seen)]
        key = f"{backbone.name}-{seen.view}-{_digest(json.dumps(settings).encode())[:16]}"
        try:
            return cls(cache_directory() / key)
        except (OSError, RuntimeError) as error:
            _warn(f"{error} {_WRITABLE}")
            return None

    def get(self, sha256: str) -> Rows | None:
        """What is known of a picture."""
        with self._lock:
            if sha256 in self._pending:
                return self._pending[sha256]
            file = self._places.get(sha256)
            if file is None:
                return None
            try:
                return self._shard(file)[sha256]
            except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
                self._drop(file, error)
                return None

    def put(self, sha256: str, rows: Rows) -> None:
        """Keep a picture's rows: at once in memory, in a shard with others."""
        with self._lock:
            if not self._writable:
                return
            self._pending[sha256] = rows
            full = len(self._pending) >= _SHARD
        if full:
            self.flush()

    def flush(self) -> None:
        """Write what is not in a shard yet."""
        if not self._pending or not self._writable:
            return
        names = list(self._pending)
        keys = self._pending[names[0]].keys()
        tensors = {key: torch.stack([rows[key] for rows in self._pending.values()]) for key in keys}
        data = save(tensors, {"pictures": json.dumps(names), "sha256": _checksum(tensors)})
        file = f"{_digest(''.join(names).encode())[:32]}.safetensors"
        try:
            write_atomically(self._directory, {file: data})
        except AISError as error:
            self._writable = False
            _warn(f"{error} {_WRITABLE}")
        with self._lock:
            if self._writable:
                self._places |= dict.fromkeys(names, self._directory / file)
            self._pending.clear()

    def _drop(self, file: Path, error: Exception) -> None:
        logger.warning("%s is damaged (%s): its pictures are computed again", file, error)
        self._places = {name: place for name, place in self._places.items() if place != file}
        try:
            file.unlink(missing_ok=True)
        except OSError as refused:
            logger.debug("%s cannot be removed: %s", file, refused)


_WRITABLE = "Set AIS_CACHE to a folder that can be written."


def _warn(why: str) -> None:
    logger.warning("What the network sees is not kept for the next run. %s", why)


def _read_shard(file: Path) -> dict[str, Rows]:
    with safe_open(file, framework="pt") as shard:
        names = json.loads(shard.metadata()["pictures"])
        tensors = {key: shard.get_tensor(key) for key in shard.keys()}  # noqa: SIM118
        if _checksum(tensors) != shard.metadata()["sha256"]:
            raise ValueError("the checksum is another")
    return {name: {key: value[i] for key, value in tensors.items()} for i, name in enumerate(names)}


def _checksum(tensors: dict[str, Tensor]) -> str:
    return _digest(b"".join(tensors[key].numpy().tobytes() for key in sorted(tensors)))
