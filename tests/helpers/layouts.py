"""Files of any layout, written sample by sample: what encoders of the usual libraries do not offer."""

from __future__ import annotations

import struct
import zlib

import numpy as np

from helpers.pictures import png, png_chunk

TIFF_TYPES = {1: "B", 3: "H", 4: "I", 11: "f", 12: "d"}

ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def samples(height: int, width: int, channels: int, bits: int) -> np.ndarray:
    """height x width x channels whole numbers of so many bits, another slope in each channel."""
    y, x = np.mgrid[0:height, 0:width]
    planes = []
    for k in range(channels):
        slope = x * (k + 2) * 7 + y * 5 * (k + 1)
        planes.append((slope / slope.max() * (2**bits - 1)).round().astype(np.uint32))
    return np.stack(planes, axis=-1)


def packed(rows: np.ndarray, bits: int, order: str = ">", reverse: bool = False) -> list[bytes]:
    """Each row's samples as bytes, every row from a byte of its own."""
    if bits in (8, 16, 32):
        data = [row.astype(f"{order}u{bits // 8}").tobytes() for row in rows]
    else:
        shifts = np.arange(bits - 1, -1, -1)
        data = [np.packbits((row[:, None] >> shifts & 1).astype(np.uint8)).tobytes() for row in rows]
    return [reversed_bits(row) for row in data] if reverse else data


def reversed_bits(data: bytes) -> bytes:
    bits = np.unpackbits(np.frombuffer(data, np.uint8)).reshape(-1, 8)
    return np.packbits(bits[:, ::-1]).tobytes()


def tiff(
    width: int, height: int, strips: list[bytes], tags: dict[int, tuple[int, list[int]]], order: str = "<"
) -> bytes:
    """A TIFF of these strips; tags are {tag: (type, values)}."""
    offsets = np.cumsum([8, *map(len, strips)])[:-1].tolist()
    rows = height
    tags = {
        256: (4, [width]),
        257: (4, [height]),
        273: (4, offsets),
        278: (4, [rows]),
        279: (4, [len(strip) for strip in strips]),
    } | tags
    body = b"".join(strips)
    body += bytes(len(body) % 2)
    at = 8 + len(body)
    extra_at, extra, entries = at + 2 + 12 * len(tags) + 4, b"", b""
    for tag, (kind, values) in sorted(tags.items()):
        field = struct.pack(f"{order}{len(values)}{TIFF_TYPES[kind]}", *values)
        if len(field) > 4:
            place, extra = extra_at + len(extra), extra + field + bytes(len(field) % 2)
            field = struct.pack(order + "I", place)
        entries += struct.pack(order + "HHI", tag, kind, len(values)) + field.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", at)
    return head + body + struct.pack(order + "H", len(tags)) + entries + bytes(4) + extra


def tiff_of(
    levels: np.ndarray,
    bits: int,
    photometric: int,
    extra: tuple[int, ...] = (),
    *,
    planar: bool = False,
    deflate: bool = False,
    order: str = "<",
    reverse: bool = False,
    rows: int | None = None,
    tags: dict[int, tuple[int, list[int]]] | None = None,
) -> bytes:
    """A TIFF of height x width x channels samples, `rows` of them a strip."""
    height, width, n = levels.shape
    planes = [levels[..., k] for k in range(n)] if planar else [levels.reshape(height, -1)]
    rows = rows or height
    strips = []
    for plane in planes:
        lines = packed(plane, bits, order, reverse and not deflate)
        strips += [b"".join(lines[at : at + rows]) for at in range(0, height, rows)]
    if deflate:
        strips = [zlib.compress(strip) for strip in strips]
        strips = [reversed_bits(strip) for strip in strips] if reverse else strips
    all_tags: dict[int, tuple[int, list[int]]] = {
        258: (3, [bits] * n),
        259: (3, [8 if deflate else 1]),
        262: (3, [photometric]),
        266: (3, [2 if reverse else 1]),
        277: (3, [n]),
        278: (4, [rows]),
        284: (3, [2 if planar else 1]),
        339: (3, [1] * n),
    }
    if extra:
        all_tags[338] = (3, list(extra))
    return tiff(width, height, strips, all_tags | (tags or {}), order)


def png_of(levels: np.ndarray, depth: int, color: int, *chunks: bytes, interlaced: bool = False) -> bytes:
    """A PNG of height x width x channels samples."""
    height, width, _ = levels.shape
    rows = b""
    for top, left, down, right in ADAM7 if interlaced else ((0, 0, 1, 1),):
        part = levels[top::down, left::right]
        if part.size:
            rows += b"".join(b"\0" + row for row in packed(part.reshape(len(part), -1), depth))
    data = png(width, height, rows, depth, color, *chunks)
    if not interlaced:
        return data
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 1)
    return data[:8] + png_chunk(b"IHDR", header) + data[33:]
