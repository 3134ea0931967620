"""`CONVERTERS`, the registry of published data sets that `ais data` makes folders of. Each is one file and one entry.

The commands, their options and their help are derived from the entries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ais.data.converters.aigciqa2023 import convert_aigciqa2023
from ais.data.converters.oasis import convert_oasis


@dataclass(frozen=True)
class Converter:
    """From a data set, as its authors distribute it, to a folder as `ais.data.ratings` reads it.

    Attributes:
        label: the data set's name.
        about: what was rated, and whose it is, in a sentence.
        convert: the function. It takes the unpacked download and the folder to make, and the files of `files` by
            name, each a path or None; it returns the number of images.
        files: files beside the download that it may take, and what each is: options of the command.
    """

    label: str
    about: str
    convert: Callable[..., int]
    files: Mapping[str, str] = field(default_factory=dict)


CONVERTERS: dict[str, Converter] = {
    "oasis": Converter(
        "OASIS",
        "Photographs rated for valence and arousal (Kurdi, Lozano & Banaji 2017), and for beauty if given.",
        convert_oasis,
        {"beauty": "The table of beauty ratings of Brielmann & Pelli (2019)."},
    ),
    "aigciqa2023": Converter(
        "AIGCIQA2023",
        "Generated pictures rated for quality, authenticity and correspondence (Wang et al. 2023).",
        convert_aigciqa2023,
    ),
}
