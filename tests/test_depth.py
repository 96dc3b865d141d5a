"""Pictures of more than 8 bits: read in full, and scaled from one range of values."""

import contextlib
import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from bestiary import table
from bestiary.context import Context
from bestiary.data import scan
from bestiary.data.audit import find_issues
from bestiary.data.deep_ranges import collection_rules, iter_collection_ranges, measure_in_collection_range
from bestiary.data.measure import measure_file
from bestiary.data.scan import MEASUREMENT_COLUMNS
from bestiary.decode_rules import FIRST_VERSION, DecodeRules
from bestiary.depth import choose_range, find_usual_range
from bestiary.picture import LIMITS, decode, open_picture
from bestiary.preprocess import Preprocessing
from bestiary.progress import Advance, SilentReporter

GREY = np.arange(256).reshape(16, 16)
COLOUR = np.dstack([GREY, GREY[::-1], GREY.T])
STEPS = {10: 4, 12: 16, 14: 64, 16: 257}  # samples for each of 256 levels


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(samples: np.ndarray, extra: bytes = b"") -> bytes:
    """A PNG of 16 bits: grey, grey and alpha, RGB or RGBA, by the number of channels."""
    height, width = samples.shape[:2]
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[1 if samples.ndim == 2 else samples.shape[2]]
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    return b"\x89PNG\r\n\x1a\n" + header + extra + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")


def tiff(samples: np.ndarray, *, photometric: int = 1, tags: dict[int, int] | None = None) -> bytes:
    """A TIFF in one strip, of the type and the byte order of the samples."""
    order = "<" if samples.dtype.byteorder in "=<" else ">"
    height, width = samples.shape[:2]
    channels = 1 if samples.ndim == 2 else samples.shape[2]
    bits, form = samples.dtype.itemsize * 8, {"u": 1, "i": 2, "f": 3}[samples.dtype.kind]
    values = {256: width, 257: height, 259: 1, 262: photometric, 277: channels, 278: height, 279: samples.nbytes}
    values |= {258: bits, 339: form, 273: 0} | (tags or {})
    start = 8 + 2 + 12 * len(values) + 4
    lists = struct.pack(f"{order}{channels}H", *[bits] * channels)
    lists += struct.pack(f"{order}{channels}H", *[form] * channels)
    values[273] = start + len(lists)
    entries = b""
    for tag, value in sorted(values.items()):
        if tag in (258, 339) and channels > 1:
            offset = start + (0 if tag == 258 else 2 * channels)
            entries += struct.pack(f"{order}HHII", tag, 3, channels, offset)
        else:
            entries += struct.pack(f"{order}HHII", tag, 4, 1, value)
    header = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, len(values))
    return header + entries + bytes(4) + lists + samples.tobytes()


def largest_gap(content: bytes, levels: np.ndarray, rules: DecodeRules | None = None) -> int:
    pixels = decode(content, rules=rules or DecodeRules()).astype(int)
    return int(np.abs(pixels - (levels if levels.ndim == 3 else levels[..., None])).max())


@pytest.mark.parametrize("bits", STEPS)
@pytest.mark.parametrize("samples", [GREY, COLOUR], ids=["grey", "colour"])
def test_all_levels_of_10_to_16_bits_are_left(bits: int, samples: np.ndarray) -> None:
    deep = samples * STEPS[bits]
    photometric = 1 if samples.ndim == 2 else 2
    for content in (
        png(deep),
        png(np.dstack([deep, np.full_like(GREY, 255 * STEPS[bits])])),
        tiff(deep.astype("<u2"), photometric=photometric),
        tiff(deep.astype(">u2"), photometric=photometric),
    ):
        assert largest_gap(content, samples) <= (0 if bits == 16 else 1)
        assert len(np.unique(decode(content)[..., 0])) >= 253


@pytest.mark.parametrize(
    "samples",
    [
        (GREY * 16 - 1024).astype("<i2"),
        (GREY * 16).astype("<i2"),
        (GREY * 16).astype("<u4"),
        (GREY.astype(np.int64) * 16_843_009).astype("<u4"),
        (GREY.astype(np.int64) * 16_843_009 - 2**31).astype("<i4"),
        (GREY / 255).astype("<f4"),
        GREY.astype("<f4"),
        (GREY * 0.2 - 15).astype("<f4"),
        (GREY * 1e6 + 5e7).astype("<f4"),
        (28_000 + GREY * 8).astype("<u2"),
    ],
    ids=lambda samples: f"{samples.dtype}, {samples.min():g} to {samples.max():g}",
)
def test_signed_32_bit_floating_point_and_narrow_samples_keep_their_levels(samples: np.ndarray) -> None:
    assert largest_gap(tiff(samples), GREY) <= 1


@pytest.mark.parametrize("samples", [(255 - GREY) * 16, (255 - GREY) * 257], ids=["12 bits", "16 bits"])
def test_white_is_zero_in_deep_tiffs(samples: np.ndarray) -> None:
    assert largest_gap(tiff(samples.astype("<u2"), photometric=0), GREY) <= 1


def test_samples_that_are_no_number_are_black_and_infinite_ones_clipped() -> None:
    samples = (GREY * 0.2 - 15).astype("<f4")
    samples[0, :3] = np.nan, np.inf, -np.inf
    assert decode(tiff(samples))[0, :4, 0].tolist() == [0, 255, 0, 0]  # the fourth is the smallest finite one
    assert not decode(tiff(np.full((4, 4), np.nan, "<f4"))).any()


def test_a_range_that_the_file_names_is_used() -> None:
    quarter = GREY // 4
    dark = (quarter * 16).astype("<u2")
    assert largest_gap(tiff(dark, tags={281: 4095}), quarter) <= 1
    assert largest_gap(tiff(dark, tags={281: int(dark.max())}), quarter) > 100  # a statistic of the picture
    assert largest_gap(tiff(dark, tags={281: 100}), quarter) > 100  # less than its own samples
    low_bits, high_bits = png_chunk(b"sBIT", b"\x0c"), png_chunk(b"sBIT", b"\x0a")
    assert largest_gap(png(quarter * 16 + 1, low_bits), quarter) <= 1
    assert largest_gap(png(quarter * 4 << 6, high_bits), quarter) <= 1
    assert open_picture(png(GREY * 4, high_bits)).depth is not None


def test_transparency_of_deep_pictures_is_laid_on_white() -> None:
    clear = np.where(GREY < 128, 0, 4095)
    pixels = decode(png(np.dstack([COLOUR * 16, clear])))
    assert (pixels[:8] == 255).all()
    assert largest_gap(png(np.dstack([COLOUR * 16, clear])), np.where(GREY[..., None] < 128, 255, COLOUR)) <= 1
    grey = png(GREY * 16, png_chunk(b"tRNS", struct.pack(">H", 160)))
    assert decode(grey)[0, 9:12, 0].tolist() == [9, 255, 11]
    infrared = tiff(np.dstack([COLOUR * 16, GREY[::-1] * 16]).astype("<u2"), photometric=2)
    assert largest_gap(infrared, COLOUR) <= 1
    assert "alpha" in open_picture(infrared).unmeant_alpha


def test_a_range_is_the_smallest_usual_one_unless_little_of_it_is_used() -> None:
    assert choose_range(0, 1020, "uint16") == (0, 1023)
    assert choose_range(10, 60_000, "uint16") == (0, 65_535)
    assert choose_range(0, 1500, "uint16") == (0, 1500)
    assert choose_range(-1500, 1500, "int16") == (-2048, 2047)
    assert choose_range(0.01, 0.9, "float") == (0, 1)
    assert choose_range(7, 7, "uint16") == (0, 255)
    assert choose_range(-3, -3, "float") == (-3, -2)


@pytest.mark.parametrize(
    ("masks", "shifts", "bits"),
    [
        ((0xF800, 0x7E0, 0x1F), (11, 5, 0), (5, 6, 5)),
        ((0x7C00, 0x3E0, 0x1F), (10, 5, 0), (5, 5, 5)),
        (None, (10, 5, 0), (5, 5, 5)),
    ],
    ids=["5-6-5", "5-5-5", "5-5-5 without masks"],
)
def test_a_bmp_of_16_bits_a_pixel_is_not_deep(masks: tuple[int, ...] | None, shifts: Any, bits: Any) -> None:
    levels = [COLOUR[..., band] >> (8 - bits[band]) for band in range(3)]
    packed = sum(level << shift for level, shift in zip(levels, shifts, strict=True)).astype("<u2")[::-1].tobytes()
    extra = struct.pack("<III", *masks) if masks else b""
    header = struct.pack("<IiiHHIIiiII", 40, 16, 16, 1, 16, 3 if masks else 0, len(packed), 0, 0, 0, 0) + extra
    content = b"BM" + struct.pack("<IHHI", 14 + len(header) + len(packed), 0, 0, 14 + len(header)) + header + packed
    opened = open_picture(content)
    assert (opened.format, opened.depth) == ("BMP", None)
    assert largest_gap(content, COLOUR) <= 8


@pytest.mark.parametrize("order", "<>")
def test_premultiplied_colours_of_a_deep_tiff_are_divided_by_alpha_once(order: str) -> None:
    alpha = np.full_like(GREY, 200 * 257)
    multiplied = np.rint(COLOUR * 257 * 200 / 255)
    content = tiff(np.dstack([multiplied, alpha]).astype(f"{order}u2"), photometric=2, tags={338: 1})
    assert largest_gap(content, np.rint(COLOUR * 200 / 255 + 55)) <= 1
    image = Image.open(io.BytesIO(content))
    assert np.array_equal(Preprocessing(16).load_pixels(image), decode(content))


@pytest.mark.parametrize("dtype", ["u1", "<u2"])
@pytest.mark.parametrize(("extra", "is_alpha"), [(None, False), (0, False), (1, True), (2, True)])
def test_a_fourth_channel_is_alpha_if_declared_whatever_its_bits(dtype: str, extra: int | None, is_alpha: bool) -> None:
    unit = 1 if dtype == "u1" else 257
    samples = (np.dstack([COLOUR * 128 // 255, np.full_like(GREY, 128)]) * unit).astype(dtype)
    opened = open_picture(tiff(samples, photometric=2, tags={} if extra is None else {338: extra}))
    assert opened.has_alpha is is_alpha
    assert bool(opened.unmeant_alpha) is (extra is None)  # 0 says that the channel has no meaning: nothing to report


@pytest.mark.parametrize(
    ("samples", "sample_type"),
    [
        (GREY * 257, "uint16"),
        (np.rint(GREY * 4095 / 255), "uint16"),
        (np.rint(GREY * 4095 / 255) - 2048, "int16"),
        (GREY / 255, "float"),
        (GREY, "float"),
    ],
)
def test_a_usual_range_that_is_used_in_full_is_not_rounded(
    tmp_path: Path, samples: np.ndarray, sample_type: str
) -> None:
    dtype = {"uint16": "<u2", "int16": "<i2", "float": "<f4"}[sample_type]
    content = tiff(samples.astype(dtype))
    pictures = measured(tmp_path, {"a.tif": content, "b.tif": content})
    [line] = iter_collection_ranges(pictures)
    assert line.ends == (line.low, line.high) == (samples.min(), samples.max())
    assert largest_gap(content, GREY, collection_rules(pictures)) <= 1


def test_a_range_has_two_ends_whatever_the_values() -> None:
    for value in (1e20, -1e20, 300.5, -7.0):
        low, high = choose_range(value, value, "float")
        assert low == value < high
    assert find_usual_range(0, 4095, "uint16") == (0, 4095)
    assert find_usual_range(28_000, 30_040, "uint16") is None


def measured(folder: Path, pictures: dict[str, bytes]) -> pl.DataFrame:
    for name, content in pictures.items():
        (folder / name).write_bytes(content)
    rows: list[dict[str, Any]] = [vars(measure_file(folder / name, LIMITS)) for name in pictures]
    return (
        pl.DataFrame(rows, schema=MEASUREMENT_COLUMNS)
        .with_row_index("row_id")
        .with_columns(label=pl.lit("x"), group=pl.col("row_id"), given_split=pl.lit(None, pl.String))
    )


def test_a_collection_has_one_range_and_brightness_is_kept(tmp_path: Path) -> None:
    """A picture half as bright as another stays half as bright, although it could be stretched."""
    bright, half = GREY * 16, GREY * 8
    pictures = measured(tmp_path, {"a.png": png(bright), "b.tif": tiff(half.astype("<u2")), "c.png": png(COLOUR * 16)})
    rules = collection_rules(pictures)
    assert rules.ranges() == {"uint16": [0, 4095]}
    assert largest_gap(png(half), GREY, rules) > 100
    assert largest_gap(png(half), GREY // 2, rules) <= 1
    assert largest_gap(tiff(half.astype("<u2")), GREY // 2, rules) <= 1
    image = Image.open(io.BytesIO(png(half)))
    preprocess = Preprocessing(16, rules=rules)
    assert np.array_equal(preprocess.load_pixels(image), preprocess.load_pixels(png(half)))
    assert np.array_equal(
        preprocess.load_pixels(Image.fromarray(half.astype(np.uint16))), decode(png(half), rules=rules)
    )


def test_a_dark_picture_among_bright_ones_is_measured_as_dark(tmp_path: Path) -> None:
    pictures = measured(tmp_path, {"a.png": png(GREY * 16), "b.png": png(GREY), "c.png": png(COLOUR * 16)})
    again = measure_in_collection_range(pictures, LIMITS, Context(threads=1, cache=None))
    assert again.drop("luma").columns == pictures.drop("luma").columns
    assert again["luma"].round(1).to_list() == [0.5, 0.0, 0.5]
    assert pictures["luma"].round(1).to_list() == [0.5, 0.5, 0.5]
    assert again[[0, 2]].equals(pictures[[0, 2]])
    assert again["deep_high"].equals(pictures["deep_high"])


class RecordingReporter(SilentReporter):
    """Keeps the title and the total of each task."""

    def __init__(self) -> None:
        self.tasks: list[tuple[str, int | None]] = []

    @contextlib.contextmanager
    def progress(self, title: str, total: int | None) -> Iterator[Advance]:
        self.tasks.append((title, total))
        yield lambda steps: None


def test_the_second_measurement_shows_progress_and_is_cached(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    dark = tmp_path / "pictures" / "b.png"
    pictures = measured(
        tmp_path / "pictures", {"a.png": png(GREY * 16), dark.name: png(GREY), "c.png": png(COLOUR * 16)}
    )
    reporter = RecordingReporter()
    context = Context(threads=1, cache=tmp_path / "cache", reporter=reporter)
    first = measure_in_collection_range(pictures, LIMITS, context)
    assert reporter.tasks == [("Reading pictures of more than 8 bits in one range", 1)]
    assert measure_in_collection_range(pictures, LIMITS, context).equals(first)
    assert len(reporter.tasks) == 1
    changed = pictures.with_columns(sha256=pl.when(pl.col("path") == str(dark)).then(pl.lit("0")).otherwise("sha256"))
    measure_in_collection_range(changed, LIMITS, context)  # the cache is of another content
    assert len(reporter.tasks) == 2
    dark.write_bytes(png(GREY * 2))
    again = measure_in_collection_range(pictures, LIMITS, context)
    assert len(reporter.tasks) == 3
    assert again["luma"][1] > first["luma"][1]


def test_the_second_measurement_runs_in_worker_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "FILES_AT_ONCE", 2)
    contents = {f"{number}.png": png(GREY + number) for number in range(4)}
    pictures = measured(tmp_path, contents | {f"z{number}.png": png(GREY * 16) for number in range(4)})
    first = measure_in_collection_range(pictures, LIMITS, Context(threads=1, cache=None))
    parallel = measure_in_collection_range(pictures, LIMITS, Context(threads=2, cache=None))
    assert parallel.equals(first)
    assert (parallel["luma"][:4] < 0.1).all()


def test_8_bit_pictures_and_own_ranges_do_not_count_for_the_range(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(GREY.astype(np.uint8)).save(stream, "PNG")
    own = tiff((GREY * 16).astype("<u2"), tags={281: 16_383})
    pictures = measured(tmp_path, {"a.png": stream.getvalue(), "b.tif": own})
    assert collection_rules(pictures) == DecodeRules()
    assert pictures["sample_type"].to_list() == ["", "uint16"]
    mixed = measured(
        tmp_path, {"a.png": stream.getvalue(), "c.png": png(GREY * 4), "d.tif": tiff((GREY / 255).astype("<f4"))}
    )
    assert collection_rules(mixed).ranges() == {"float": [0, 1], "uint16": [0, 1023]}
    assert largest_gap(stream.getvalue(), GREY, collection_rules(mixed)) == 0


def test_a_narrow_range_is_rounded_so_that_a_few_pictures_more_change_nothing(tmp_path: Path) -> None:
    pictures = measured(tmp_path, {"a.png": png(28_000 + GREY * 8), "b.png": png(28_010 + GREY * 7)})
    [line] = iter_collection_ranges(pictures)
    assert (line.pictures, line.low, line.high, line.ends) == (2, 28_000, 30_040, (27_968, 30_080))


def test_a_table_of_an_older_run_is_decoded_by_the_first_rules(tmp_path: Path) -> None:
    pictures = measured(tmp_path, {"a.png": png(GREY * 16)})
    rules = collection_rules(pictures.drop(list(table.DEPTH)))
    assert rules.version == FIRST_VERSION
    assert len(np.unique(decode(png(GREY * 16), rules=rules))) == 17  # divided by 257


def test_the_audit_names_bits_and_range(tmp_path: Path) -> None:
    pictures = measured(tmp_path, {"a.png": png(GREY * 4), "b.png": png(GREY * 4)})
    findings = find_issues(pictures, np.empty((0, 4), np.int64)).filter(pl.col("check") == "deep")
    assert findings["message"].to_list() == [
        "2 of 2 pictures have samples of type uint16 whose range their files do not declare. They lie between 0 and"
        " 1,020 (10 bits), and are scaled to 8 bits from 0 to 1,023."
    ]
    assert not measured(tmp_path, {"a.png": png(GREY * 4)})["luma"].item() < 0.12


def deep_messages(pictures: pl.DataFrame) -> list[str]:
    findings = find_issues(pictures, np.empty((0, 4), np.int64)).filter(pl.col("check") == "deep")
    return [message.split(". They lie")[0] for message in findings.sort("score")["message"]]


def test_the_noun_belongs_to_the_total_and_the_verb_to_the_count(tmp_path: Path) -> None:
    own = tiff((GREY * 16).astype("<u2"), tags={281: 16_383})
    flat = io.BytesIO()
    Image.fromarray(COLOUR.astype(np.uint8)).save(flat, "PNG")
    assert deep_messages(measured(tmp_path, {"a.png": png(GREY * 4), "b.tif": own, "c.png": flat.getvalue()})) == [
        "1 of 3 pictures has samples of type uint16 whose range its file does not declare",
        "1 of 3 pictures has more than 8 bits and declares its range of values, from which it is scaled to 8 bits.",
    ]
    assert deep_messages(measured(tmp_path, {"a.png": png(GREY * 4)})) == [
        "1 of 1 picture has samples of type uint16 whose range its file does not declare"
    ]
    assert deep_messages(measured(tmp_path, {"b.tif": own, "d.tif": own, "c.png": flat.getvalue()})) == [
        "2 of 3 pictures have more than 8 bits and declare their range of values, from which they are scaled to 8 bits."
    ]


@pytest.mark.parametrize(
    ("version", "ranges"),
    [(0, {}), (3, {}), (True, {}), (2, []), (2, {"uint16": [5, 5]}), (2, {"uint8": [0, 1]}), (2, {"float": [0]})],
)
def test_rules_that_cannot_be_are_refused(version: Any, ranges: Any) -> None:
    with pytest.raises(ValueError, match="decoding is|deep_ranges is"):
        DecodeRules.of(version, ranges)


def test_rules_survive_the_bundle_and_name_their_caches() -> None:
    rules = DecodeRules(deep_ranges=(("uint16", 0.0, 4095.0),))
    assert DecodeRules.of(rules.version, rules.ranges()) == rules
    assert DecodeRules().cache_name == "v2"
    assert rules.cache_name != DecodeRules(deep_ranges=(("uint16", 0.0, 1023.0),)).cache_name
