"""Every layout of samples is read rightly or refused: compared with the samples themselves and with other readers."""

from __future__ import annotations

import io
import itertools
import struct
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from ais.errors import ImageError
from ais.images.reading import read_image
from helpers.layouts import png_of, samples, tiff, tiff_of
from helpers.pictures import encoded, photo, png_chunk

pytestmark = pytest.mark.filterwarnings("ignore")

H, W = 23, 37

CHANNELS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4}

PALETTE = np.random.default_rng(0).integers(0, 65536, (3, 256))


def read(source: Any) -> np.ndarray:
    return np.asarray(read_image(source)).astype(float)


def seen(levels: np.ndarray, bits: int, photometric: int, extra: tuple[int, ...] = ()) -> np.ndarray:
    """The RGB levels that a TIFF of these samples shows, transparency laid on white."""
    unit = levels / (2**bits - 1)
    n = CHANNELS[photometric]
    base = unit[..., :n]
    if photometric == 0:
        base = 1 - base
    if photometric == 3:
        base = PALETTE[:, : 2**bits].T[levels[..., 0]] / 65535
    if photometric == 5:
        base = (1 - base[..., :3]) * (1 - base[..., 3:])
    if extra[:1] == (1,):
        base = base + 1 - unit[..., n : n + 1]
    elif extra[:1] == (2,):
        base = base * unit[..., n : n + 1] + 1 - unit[..., n : n + 1]
    return 255 * (base.repeat(3, axis=-1) if base.shape[-1] == 1 else base)


def with_alpha(levels: np.ndarray, bits: int, extra: tuple[int, ...]) -> np.ndarray:
    if extra[:1] == (1,):  # colours are multiplied with it
        colors = levels.shape[-1] - len(extra)
        alpha = levels[..., colors : colors + 1] / (2**bits - 1)
        levels[..., :colors] = np.round(levels[..., :colors] * alpha)
    return levels


READ_TIFFS = {  # what must be read, however it is packed; all else may also be refused
    *((photometric, bits, ()) for photometric in (0, 1) for bits in (1, 2, 4, 8, 16)),
    *((3, bits, ()) for bits in (1, 2, 4, 8)),
    *((2, bits, extra) for bits in (8, 16) for extra in ((), (0,), (1,), (2,))),
    *((5, bits, ()) for bits in (8, 16)),
}


@pytest.mark.parametrize("bits", [1, 2, 4, 6, 8, 10, 12, 14, 16, 32])
@pytest.mark.parametrize("photometric", CHANNELS)
def test_tiffs_are_read_rightly_or_refused(photometric: int, bits: int) -> None:
    if photometric == 3 and bits > 8:
        pytest.skip("no palette is as long")
    for extra in ((), (0,), (1,), (2,), (2, 0), (0, 0)):
        levels = with_alpha(samples(H, W, CHANNELS[photometric] + len(extra), bits), bits, extra)
        expected = seen(levels, bits, photometric, extra)
        tags: Any = {320: (3, PALETTE[:, : 2**bits].reshape(-1).tolist())} if photometric == 3 else {}
        for planar, deflate, order, reverse in itertools.product((0, 1), (0, 1), "<>", (0, 1)):
            packing: Any = {"planar": planar, "deflate": deflate, "order": order, "reverse": reverse}
            data = tiff_of(levels, bits, photometric, extra, rows=7, tags=tags, **packing)
            try:
                found = read(data)
            except ImageError as refusal:
                found, sentence = None, str(refusal)
            if found is not None:
                assert np.abs(found - expected).max() < 1.5, (packing, extra)
            else:
                assert reverse or (photometric, bits, extra) not in READ_TIFFS, (packing, extra)
                assert "is a TIFF with" in sentence, (packing, extra)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(("photometric", "bits"), [(0, 16), (1, 16), (1, 8), (2, 8), (2, 16)])
def test_tiffs_of_another_writer_and_reader(photometric: int, bits: int, order: str) -> None:
    levels = samples(40, 50, CHANNELS[photometric], bits).astype(f"{order}u{bits // 8}")
    expected = seen(levels, bits, photometric)
    for planar, tile, big, compression in itertools.product(
        (0, 1), (None, (16, 32)), (False, True), (None, "zlib")
    ):
        if big and order == ">":
            continue
        pixels = np.moveaxis(levels, -1, 0) if planar else levels
        if photometric != 2:
            pixels = levels[..., 0]
        file = io.BytesIO()
        tifffile.imwrite(
            file,
            pixels,
            photometric=("miniswhite", "minisblack", "rgb")[photometric],
            planarconfig=("contig", "separate")[planar] if photometric == 2 else None,
            tile=tile,
            bigtiff=big,
            byteorder=order,
            compression=compression,
        )
        np.testing.assert_array_equal(tifffile.imread(io.BytesIO(file.getvalue())), pixels)
        assert np.abs(read(file.getvalue()) - expected).max() <= 0.51


def test_sixteen_bit_colours_are_rounded_alike_through_every_door() -> None:
    levels = np.random.default_rng(0).integers(0, 65536, (H, W, 3)).astype(np.uint16)
    alpha = np.random.default_rng(1).integers(0, 65536, (H, W, 1)).astype(np.uint16)
    rgba = np.concatenate([levels, alpha], axis=-1)
    grey = levels[..., :1].repeat(3, axis=-1)
    for array, files in (
        (levels, [png_of(levels, 16, 2), png_of(levels, 16, 2, interlaced=True)]),
        (rgba, [png_of(rgba, 16, 6)]),
        (grey, [png_of(levels[..., :1], 16, 0)]),
    ):
        if array is not grey:
            for planar, deflate, order in itertools.product((0, 1), (0, 1), "<>"):
                extra = (2,) if array is rgba else ()
                packing: Any = {"planar": planar, "deflate": deflate, "order": order}
                files.append(tiff_of(array.astype(np.uint32), 16, 2, extra, **packing))
        expected = read(array)
        for data in files:
            np.testing.assert_array_equal(read(data), expected)
            np.testing.assert_array_equal(read(Image.open(io.BytesIO(data))), expected)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(
    ("depth", "color"),
    [*((depth, 0) for depth in (1, 2, 4, 8, 16)), *((d, c) for c in (2, 4, 6) for d in (8, 16))]
    + [(depth, 3) for depth in (1, 2, 4, 8)],
)
def test_pngs_of_every_layout(depth: int, color: int, interlaced: bool) -> None:
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    levels = samples(H, W, channels, depth)
    top = 2**depth - 1
    chunks = []
    table = np.random.default_rng(0).integers(0, 256, (2**depth, 4), dtype=np.uint8) if color == 3 else None
    if table is not None:
        chunks = [png_chunk(b"PLTE", table[:, :3].tobytes())]
        expected = table[levels[..., 0], :3].astype(float)
    else:
        expected = (
            levels[..., : 3 if color in (2, 6) else 1].repeat(1 if color in (2, 6) else 3, -1) / top * 255
        )
    if color in (4, 6):
        alpha = levels[..., -1:] / top
        expected = expected * alpha + 255 * (1 - alpha)
    data = png_of(levels, depth, color, *chunks, interlaced=interlaced)
    assert np.abs(read(data) - expected).max() < 1.5
    if color in (4, 6):
        return
    key = levels[H // 2, W // 2]
    if table is not None:
        chunks.append(png_chunk(b"tRNS", table[:, 3].tobytes()))
        alpha = table[levels[..., 0], 3:] / 255
        expected = expected * alpha + 255 * (1 - alpha)
    else:  # bits above the depth do not count
        chunks = [png_chunk(b"tRNS", struct.pack(f">{channels}H", *(key | (0xFF00 if depth < 16 else 0))))]
        expected[np.all(levels == key, axis=-1)] = 255
    data = png_of(levels, depth, color, *chunks, interlaced=interlaced)
    assert np.abs(read(data) - expected).max() < 1.5
    np.testing.assert_array_equal(read(Image.open(io.BytesIO(data))), read(data))


def bmp(bits: int, rows: bytes, palette: bytes = b"", masks: tuple[int, ...] = (), header: int = 40) -> bytes:
    fields = struct.pack(
        "<IiiHHIIiiII", header, W, H, 1, bits, 3 if masks else 0, 0, 0, 0, len(palette) // 4, 0
    )
    fields += struct.pack(f"<{len(masks)}I", *masks)
    head = fields.ljust(header, b"\0") + palette
    return b"BM" + struct.pack("<IHHI", 14 + len(head) + len(rows), 0, 0, 14 + len(head)) + head + rows


def bmp_rows(levels: np.ndarray) -> bytes:
    return b"".join(row.tobytes().ljust(-(-row.nbytes // 4) * 4, b"\0") for row in levels[::-1])


def test_bmps() -> None:
    rgb = samples(H, W, 3, 8).astype(np.uint8)
    bgr = rgb[..., ::-1]
    alpha = samples(H, W, 4, 8)[..., 3:].astype(np.uint8)
    on_white = rgb * (alpha / 255) + 255 * (1 - alpha / 255)
    places = (0xFF0000, 0xFF00, 0xFF)
    empty = np.zeros_like(alpha)
    for found, expected in (
        (bmp(24, bmp_rows(bgr)), rgb),
        (bmp(32, bmp_rows(np.concatenate([bgr, empty], axis=-1))), rgb),
        (bmp(32, bmp_rows(np.concatenate([bgr, alpha], axis=-1))), rgb),  # no alpha in the oldest header
        (bmp(32, bmp_rows(np.concatenate([bgr, empty], -1)), b"", (*places, 0xFF000000), 108), rgb),
        (bmp(32, bmp_rows(np.concatenate([bgr, alpha], -1)), b"", (*places, 0xFF000000), 108), on_white),
        (bmp(32, bmp_rows(np.concatenate([bgr, alpha], -1)), b"", (*places, 0), 56), rgb),
    ):
        assert np.abs(read(found) - expected).max() <= 1
        assert np.abs(read(Image.open(io.BytesIO(found))) - expected).max() <= 1
    two = (rgb[..., 0] > 99).astype(np.uint8)
    for colors in (b"\0\0\0\0\xff\xff\xff\0", b"\xff\xff\xff\0\0\0\0\0", b"\7\7\7\0\x99\x99\x99\0"):
        levels = np.frombuffer(colors, np.uint8)[::4]
        expected = levels[two][..., None].repeat(3, axis=-1)
        np.testing.assert_array_equal(read(bmp(8, bmp_rows(two), colors)), expected)
    strange = bmp(32, bmp_rows(np.concatenate([bgr, empty], -1)), b"", (0x3FF00000, 0xFFC00, 0x3FF, 0), 56)
    with pytest.raises(ImageError, match="of a rare layout, which is not read here"):
        read(strange)


def test_tiffs_of_pillow_in_every_compression() -> None:
    base, expected = photo(W, H), np.asarray(photo(W, H)).astype(float)
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd", "lzma", None):
        for predictor in (1, 2):
            options: Any = {"compression": compression} if compression else {}
            if compression in ("tiff_lzw", "tiff_adobe_deflate", "zstd", "lzma"):
                options["tiffinfo"] = {317: predictor}
            np.testing.assert_array_equal(read(encoded(base, "TIFF", **options)), expected)
    bits = base.convert("1")
    for compression in ("group3", "group4", "tiff_ccitt", "packbits"):
        found = read(encoded(bits, "TIFF", compression=compression))
        np.testing.assert_array_equal(found, np.asarray(bits.convert("RGB")))
    assert np.abs(read(encoded(base, "TIFF", compression="jpeg", quality=95)) - expected).max() < 12


def test_luminance_and_chrominance_in_a_tiff() -> None:
    base = photo(36, 24)
    levels = np.asarray(base.convert("YCbCr")).astype(np.uint32)
    plain: Any = {530: (3, [1, 1])}
    assert np.abs(read(tiff_of(levels, 8, 6, tags=plain)) - np.asarray(base)).max() <= 3
    assert np.abs(read(tiff_of(levels, 8, 6, tags=plain, deflate=True)) - np.asarray(base)).max() <= 3
    assert np.abs(read(encoded(base.convert("YCbCr"), "TIFF")) - np.asarray(base)).max() <= 3


def test_a_short_palette_of_eight_bits() -> None:
    levels = samples(H, W, 1, 8)
    table = PALETTE >> 8
    found = read(tiff_of(levels, 8, 3, tags={320: (3, table.reshape(-1).tolist())}))
    np.testing.assert_array_equal(found, table.T[levels[..., 0]])


@pytest.mark.parametrize(
    ("tags", "kind"),
    [
        ({258: (3, [64]), 339: (3, [3])}, "a TIFF with floating-point samples"),
        ({258: (3, [16]), 339: (3, [3])}, "a TIFF with floating-point samples"),
        ({258: (3, [16]), 339: (3, [2])}, "a TIFF with signed samples"),
        ({258: (3, [8]), 339: (3, [2])}, "a TIFF with signed samples"),
        ({258: (3, [32])}, "a TIFF with 32-bit samples"),
        ({258: (3, [8, 8, 16]), 277: (3, [3]), 262: (3, [2])}, "a TIFF with channels of unlike bits"),
        ({258: (3, [8]), 277: (3, [3]), 262: (3, [1])}, "a TIFF with 3 channels a pixel for colours of 1"),
        ({259: (3, [34712])}, r"a TIFF compressed in a rare way \(34712\)"),
        ({262: (3, [32844])}, r"a TIFF of a rare kind of colour \(32844\)"),
        ({50706: (1, [1, 4, 0, 0])}, "a camera's raw file"),
        ({254: (4, [1])}, "a camera's raw file"),
    ],
)
def test_whole_tiffs_are_not_called_damaged(tags: Any, kind: str) -> None:
    start: Any = {258: (3, [8]), 259: (3, [1]), 262: (3, [1]), 277: (3, [1])}
    with pytest.raises(ImageError, match=f"is {kind}.*which is not read here: "):
        read_image(tiff(W, H, [bytes(W * H * 8)], start | tags))


@pytest.mark.parametrize(
    ("at", "value", "kind"),
    [
        (0, b"\xff\xc3", "a lossless JPEG"),
        (4, b"\x0c", "a JPEG with 12 bits"),
        (9, b"\2", "a JPEG with 2 channels"),
    ],
)
def test_whole_jpegs_are_not_called_damaged(at: int, value: bytes, kind: str) -> None:
    data = bytearray(encoded(photo(), "JPEG"))
    at += data.index(b"\xff\xc0")
    data[at : at + len(value)] = value
    with pytest.raises(ImageError, match=f"is {kind}.*which is not read here: "):
        read_image(bytes(data))
