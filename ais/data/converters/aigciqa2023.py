"""AIGCIQA2023, 2,400 generated images with three ratings each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ais.data.converters.common import (
    as_text,
    check_new,
    find_files,
    find_images,
    find_one,
    read_table,
    write_folder,
)
from ais.errors import DataError, listing

_AIGCIQA2023 = 2400  # images


def convert_aigciqa2023(source: str | os.PathLike[str], out: str | os.PathLike[str]) -> int:
    """AIGCIQA2023, 2,400 generated images: Wang et al. (2023), arXiv 2307.00211.

    Its files are ``Image/allimg/0.png`` to ``2399.png``; ``DATA/MOS/mosz1.mat`` (quality), ``mosz2.mat``
    (authenticity) and ``mosz3.mat`` (correspondence with the prompt), each a vector ``MOSz`` on a scale of 0
    to 100; and ``DATA/STD/SD1.mat`` to ``SD3.mat`` with a vector ``SD``. The authors' repository
    (github.com/wangjiarui153/AIGCIQA2023) adds a table ``AIGCIQA2023.csv`` with the prompts and their kinds:
    put it into `source` to have these too.

    Our columns:
        quality_mean, authenticity_mean, correspondence_mean.
        quality_raw_sd and so on, where found: the authors' standard deviations, which are in points of the
            raw ratings' scale, about 1, and not of the means' 0 to 100. So they are not called ``…_sd``.
        prompt: the group to keep together. Image i shows prompt (i mod 400) div 4, as the authors' table
            has it: 24 images each. Without the table, prompts are numbered.
        category, style: the prompt's class and style from the table.
        block: i div 400 + 1. Each of the six blocks holds all prompts, and there are six generators (Glide,
            Lafite, DALL-E, Stable Diffusion, Unidiffuser, ControlNet); which block is whose is not published.

    Returns:
        The number of images.

    Raises:
        DataError: files are missing or not as described, or there is a table or images in `out` already.
    """
    check_new(Path(out))
    files = find_files(source)
    places = range(_AIGCIQA2023)
    columns: dict[str, Sequence[str]] = {}
    for i, name in enumerate(("quality", "authenticity", "correspondence"), start=1):
        columns[f"{name}_mean"] = _vector(find_one(files, f"mosz{i}.mat", source), "MOSz")
        if f"sd{i}.mat" in files:
            columns[f"{name}_raw_sd"] = _vector(find_one(files, f"SD{i}.mat", source), "SD")
    columns["prompt"] = [f"prompt {i % 400 // 4}" for i in places]
    if "aigciqa2023.csv" in files:
        table = find_one(files, "AIGCIQA2023.csv", source)
        theirs = read_table(table, ["name", "prompt", "class", "style"])
        row_of = {row["name"]: row for row in theirs}
        absent = [f"{i}.png is not named" for i in places if f"{i}.png" not in row_of]
        if absent:
            raise DataError(listing(f"{table} does not fit the pictures", absent))
        for ours, column in {"prompt": "prompt", "category": "class", "style": "style"}.items():
            columns[ours] = [row_of[f"{i}.png"][column] for i in places]
    columns["block"] = [str(i // 400 + 1) for i in places]
    rows = [{column: values[i] for column, values in columns.items()} for i in places]
    names = [str(i) for i in places]
    return write_folder(out, names, find_images(files, names, source), rows)


def _vector(file: Path, variable: str) -> list[str]:
    """The numbers of AIGCIQA2023's images, from a MATLAB file."""
    from scipy import io as matlab  # takes long to import, and the registry of converters does not need it

    try:
        content = matlab.loadmat(str(file), variable_names=[variable])
    except NotImplementedError as error:  # HDF5
        raise DataError(
            f"{file} was saved by MATLAB as version 7.3, which is not read here: load it there, and save it "
            f"with save('{file.name}', '{variable}', '-v7')."
        ) from error
    except Exception as error:  # nearly any built-in exception can come out of damaged bytes
        raise DataError(f"{file} cannot be read as a MATLAB file: download it again.") from error
    numbers = np.asarray(content.get(variable, []))
    if numbers.size != _AIGCIQA2023 or numbers.dtype.kind not in "fiu" or not np.isfinite(numbers).all():
        raise DataError(
            f"{file} does not hold {_AIGCIQA2023} numbers under the name {variable}: download it again."
        )
    return [as_text(float(number)) for number in numbers.ravel()]
