"""What lies in a TIFF: read from its first directory, so that Pillow's silent mistakes are not taken over.

Pillow reads many of TIFF's layouts, some of them wrongly without an error. `Tiff.check` lets pass what it reads
rightly (the tests compare every combination with another reader) and what is put right here: planes, 12 bits,
16 bits, 0 for white.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from ais.errors import ImageError
from ais.images.guards import check_size, unsupported

_TYPE_BYTES = dict(zip(range(1, 14), (1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4), strict=True)) | dict.fromkeys(
    (16, 17, 18), 8
)

_NUMBERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}

_DIRECTORIES = (34665, 34853, 40965)  # EXIF, GPS, interoperability

_COMPRESSIONS = (1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946, 34925, 50000, 50001)

_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 256, 257, 258, 259, 262

_FILL_ORDER, _OFFSETS, _ORIENTATION, _SAMPLES, _COUNTS, _PLANAR = 266, 273, 274, 277, 279, 284

_COLORMAP, _TILE_OFFSETS, _TILE_COUNTS, _EXTRA, _FORMAT = 320, 324, 325, 338, 339

_DNG = 50706

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8

_COLORS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3, LAB: 3}

_Numbers = tuple[int, ...]

_Layouts = dict[tuple[int, _Numbers], _Numbers]  # (photometric, extra samples): the bits of a sample

_READ: _Layouts = {  # what Pillow reads rightly, and what `ais.images.decoding` puts right
    (WHITE_IS_ZERO, ()): (1, 2, 4, 8, 16),
    (BLACK_IS_ZERO, ()): (1, 2, 4, 8, 12, 16),
    (BLACK_IS_ZERO, (2,)): (8,),
    **{(RGB, extra): (8, 16) for extra in ((), (0,), (1,), (2,))},
    **{(RGB, extra): (8,) for extra in ((0, 0), (0, 0, 0), (1, 0), (1, 0, 0), (2, 0), (2, 0, 0))},
    (PALETTE, ()): (1, 2, 4, 8),
    (PALETTE, (0,)): (8,),
    (PALETTE, (2,)): (8,),
    (CMYK, ()): (8, 16),
    (CMYK, (0,)): (8,),
    (CMYK, (0, 0)): (8,),
    (YCBCR, ()): (8,),
    (LAB, ()): (8,),
}

_READ_REVERSED: _Layouts = {  # the same, for files that begin each byte with its lowest bit
    (WHITE_IS_ZERO, ()): (1, 2, 4),
    (BLACK_IS_ZERO, ()): (1, 2, 4, 8),
    (RGB, ()): (8,),
    (PALETTE, ()): (8,),
}

_READ_PLANES: _Layouts = {  # the same, for files with a plane a sample
    (photometric, extra): (8, 16)
    for photometric, extras in (
        (WHITE_IS_ZERO, ((0,), (2,))),
        (BLACK_IS_ZERO, ((0,), (1,), (2,))),
        (RGB, ((), (0,), (1,), (2,))),
        (CMYK, ((), (0,))),
    )
    for extra in extras
}


class _Entry(NamedTuple):
    tag: int
    kind: int
    values: int
    value: bytes  # the field itself: the values, or where they are


@dataclass(frozen=True)
class Tiff:
    """The first picture of a TIFF as its tags describe it.

    Attributes:
        photometric: how samples become colours, TIFF's number: `WHITE_IS_ZERO` and so on.
        bits: of each sample.
        samples: in a pixel, `extra` among them.
        extra: what each sample beside the colours is: 0 unknown, 1 alpha, multiplied in, 2 alpha.
        planar: every sample has a plane of its own.
        orientation: EXIF's number.
    """

    data: bytes
    entries: tuple[_Entry, ...]
    order: str
    big: bool
    photometric: int
    bits: int
    samples: int
    extra: _Numbers
    planar: bool
    compression: int
    orientation: int

    @property
    def colors(self) -> int:
        """Samples of a pixel that are colours."""
        return self.samples - len(self.extra)

    def numbers(self, tag: int, default: _Numbers = ()) -> _Numbers:
        """The whole numbers of a tag; the default where it has none."""
        return _numbers(self.data, self.entries, self.order, self.big, tag) or default

    @property
    def inverted(self) -> bool:
        """0 is white, in 16 bits: Pillow reads it as black."""
        return self.photometric == WHITE_IS_ZERO and self.bits == 16

    @property
    def palette(self) -> list[int]:
        """Red, green, blue of the colour map, one after another, in 0 to 255 each."""
        levels = self.numbers(_COLORMAP)
        n = len(levels) // 3
        if max(levels, default=0) > 255:  # if not, its writer forgot that the map has 16 bits
            levels = tuple(level >> 8 for level in levels)
        return [levels[k + c * n] for k in range(n) for c in range(3)]

    def black_is_zero(self) -> bytes:
        """The file with its samples in one plane and taken as they are."""
        fields: dict[int, _Numbers] = {_PLANAR: (1,)}
        if self.inverted:
            fields[_PHOTOMETRIC] = (BLACK_IS_ZERO,)
        return self._with_directory([entry for entry in self.entries if entry.tag not in fields], fields)

    def planes(self) -> Iterator[bytes]:
        """Each sample's plane as a grey TIFF of its own, upright or not as the file has it."""
        names = (_OFFSETS, _COUNTS) if self.numbers(_OFFSETS) else (_TILE_OFFSETS, _TILE_COUNTS)
        places = {tag: self.numbers(tag) for tag in names}
        n = len(places[names[0]]) // self.samples
        dropped = {_BITS, _PHOTOMETRIC, _SAMPLES, _PLANAR, _EXTRA, _FORMAT, _ORIENTATION, *_DIRECTORIES}
        for k in range(self.samples):
            fields: dict[int, _Numbers] = {
                _BITS: (self.bits,),
                _PHOTOMETRIC: (BLACK_IS_ZERO,),
                _SAMPLES: (1,),
                _PLANAR: (1,),
            }
            fields |= {tag: place[k * n : (k + 1) * n] for tag, place in places.items() if place}
            kept = [entry for entry in self.entries if entry.tag not in fields.keys() | dropped]
            yield self._with_directory(kept, fields)

    def _with_directory(self, kept: list[_Entry], fields: dict[int, _Numbers]) -> bytes:
        """The file with another first directory, which is put at its end."""
        number, width = ("Q", 8) if self.big else ("I", 4)
        kind = 16 if self.big else 4
        tail, entries = b"", list(kept)
        start = len(self.data) + len(self.data) % 2
        for tag, values in fields.items():
            packed = struct.pack(f"{self.order}{len(values)}{number}", *values)
            if len(packed) > width:
                place, tail = start + len(tail), tail + packed
                packed = struct.pack(self.order + number, place)
            entries.append(_Entry(tag, kind, len(values), packed))
        count = struct.pack(self.order + ("Q" if self.big else "H"), len(entries))
        directory = b"".join(
            struct.pack(f"{self.order}HH{number}", *entry[:3]) + entry.value for entry in sorted(entries)
        )
        head = self.data[:8] if self.big else self.data[:4]
        first = struct.pack(self.order + number, start + len(tail))
        whole = head + first + self.data[len(head) + width :].ljust(start - len(head) - width, b"\0")
        return whole + tail + count + directory + bytes(width)


def read_tiff(data: bytes, name: str) -> Tiff:
    """The first directory of a TIFF, checked.

    Raises:
        ImageError: it is too large, holds more tags than picture, or is of a layout that is not read.
    """
    order = "<" if data.startswith(b"II") else ">"
    big = 43 in data[2:4]
    if big and order == ">":  # Pillow takes it for a small one
        raise unsupported(name, "a large TIFF whose highest bytes come first")
    entries = _directory(data, order, big, name)

    def first(tag: int, default: int) -> int:
        return (_numbers(data, entries, order, big, tag) or (default,))[0]

    tags = {entry.tag for entry in entries}
    if not {_WIDTH, _HEIGHT} <= tags or not tags & {_OFFSETS, _TILE_OFFSETS}:
        raise ValueError("the first directory is cut short")
    check_size(first(_WIDTH, 0), first(_HEIGHT, 0), name)
    _check_first_page(entries, first, name)
    compression = first(_COMPRESSION, 1)
    if compression not in _COMPRESSIONS:
        raise unsupported(name, f"a TIFF compressed in a rare way ({compression})")
    photometric = YCBCR if compression == 6 else first(_PHOTOMETRIC, 0)
    if photometric not in _COLORS:
        raise unsupported(name, f"a TIFF of a rare kind of colour ({photometric})")
    samples = first(_SAMPLES, 3 if compression == 6 else 1)
    extra = _numbers(data, entries, order, big, _EXTRA)
    if photometric == RGB and samples == 4 and not extra:
        extra = (2,)  # an old habit of writers, which all readers take so
    bits = _numbers(data, entries, order, big, _BITS) or (1,)
    formats = _numbers(data, entries, order, big, _FORMAT) or (1,)
    tiff = Tiff(
        data,
        entries,
        order,
        big,
        photometric,
        bits[0],
        samples,
        extra,
        first(_PLANAR, 1) == 2,
        compression,
        first(_ORIENTATION, 1),
    )
    _check_layout(tiff, bits, formats, first(_FILL_ORDER, 1), name)
    return tiff


def _directory(data: bytes, order: str, big: bool, name: str) -> tuple[_Entry, ...]:
    """The entries of the first directory; refused where tags claim the same bytes over and over: Pillow copies each."""
    start, number, layout, width = (8, "Q", "HHQ8s", 8) if big else (4, "I", "HHI4s", 4)
    directories, claimed = list(struct.unpack_from(order + number, data, start)), 0
    first: tuple[_Entry, ...] = ()
    for n, at in enumerate(directories):  # grows on the way
        (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, at)
        begin, size = at + (8 if big else 2), struct.calcsize(order + layout)
        whole = max(0, min(count, (len(data) - begin) // size))
        entries = [
            _Entry(*fields)
            for fields in struct.iter_unpack(order + layout, data[begin : begin + whole * size])
        ]
        first = first if n else tuple(entries)
        for entry in entries:
            claimed += min(entry.values * _TYPE_BYTES.get(entry.kind, 0), len(data))
            if entry.tag in _DIRECTORIES:
                directories.append(int.from_bytes(entry.value[:width], "little" if order == "<" else "big"))
        if claimed > 8 * len(data) or len(directories) > 16:
            raise ImageError(f"{name} holds more tags than picture: save it again without them.")
    return first


def _numbers(data: bytes, entries: tuple[_Entry, ...], order: str, big: bool, tag: int) -> _Numbers:
    for entry in entries:
        if entry.tag == tag and entry.kind in _NUMBERS:
            size = entry.values * _TYPE_BYTES[entry.kind]
            packed = entry.value
            if size > len(packed):
                (at,) = struct.unpack_from(order + ("Q" if big else "I"), packed)
                packed = data[at : at + size]
            if len(packed) < size:
                return ()
            return struct.unpack_from(f"{order}{entry.values}{_NUMBERS[entry.kind]}", packed)
    return ()


def _check_first_page(entries: tuple[_Entry, ...], first: Callable[[int, int], int], name: str) -> None:
    """Refuse cameras' raw files, which are TIFFs whose first page is a small copy."""
    if any(entry.tag == _DNG for entry in entries) or first(_SUBFILE, 0) & 1:
        raise unsupported(name, "a camera's raw file")


def _check_layout(tiff: Tiff, bits: _Numbers, formats: _Numbers, fill_order: int, name: str) -> None:
    def refused(kind: str) -> ImageError:
        return unsupported(name, f"a TIFF with {kind}")

    if len(set(bits)) > 1:
        raise refused("channels of unlike bits")
    if tiff.bits == 12 and tiff.order == ">":
        raise refused("12-bit samples")
    if len(set(formats)) > 1 or formats[0] not in (1, 2, 3, 4):
        raise refused("samples of a rare kind")
    if formats[0] in (2, 3):
        if (tiff.photometric, tiff.bits, tiff.samples, fill_order) == (BLACK_IS_ZERO, 32, 1, 1):
            return  # a channel of 0 to 1, or of 16-bit levels in more room: values beyond are refused later
        raise refused("signed samples" if formats[0] == 2 else "floating-point samples")
    if tiff.colors != _COLORS[tiff.photometric]:
        raise refused(f"{tiff.samples} channels a pixel for colours of {_COLORS[tiff.photometric]}")
    planes = tiff.planar and tiff.samples > 1
    read = _READ_PLANES if planes else _READ if fill_order == 1 else _READ_REVERSED
    key = (tiff.photometric, tiff.extra)
    if tiff.bits in read.get(key, ()) and (fill_order == 1 or not planes):
        return
    if fill_order != 1:
        raise refused("its bits in reverse order")
    if all(tiff.bits not in depths for depths in _READ.values()):
        raise refused(f"{tiff.bits}-bit samples")
    if planes:
        raise refused("such channels in planes")
    raise refused("channels beside its colours" if tiff.extra else f"{tiff.bits}-bit samples")
