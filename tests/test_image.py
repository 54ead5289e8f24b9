"""Pictures in every kind of file that people have, and what must survive."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import pyvips
from numpy.typing import NDArray

from rtlit import InputError, OutputError, UsageError, enhance_image

KINDS = {
    "rgb8": lambda v: v,
    "rgb16": lambda v: (v.cast("ushort") * 257 + 3).cast("ushort").copy(interpretation="rgb16"),
    "grey8": lambda v: v.colourspace("b-w"),
    "grey16": lambda v: (v.colourspace("b-w").cast("ushort") * 257 + 3).cast("ushort").copy(interpretation="grey16"),
    "rgba8": lambda v: v.bandjoin(_ramp(v)),
    "grey-alpha8": lambda v: v.colourspace("b-w").bandjoin(_ramp(v)),
    "rgba16": lambda v: KINDS["rgb16"](v).bandjoin((_ramp(v) * 257).cast("ushort")),
}
FORMATS = [(kind, suffix) for kind in KINDS for suffix in (".png", ".tif")]
FORMATS += [("rgb8", ".jpg"), ("grey8", ".jpg"), ("rgb8", ".webp"), ("rgba8", ".webp")]


def _ramp(v: pyvips.Image) -> pyvips.Image:
    return pyvips.Image.xyz(v.width, v.height)[0].linear(255 / v.width, 0).cast("uchar")


@pytest.fixture(scope="session")
def vips(picture: NDArray[np.uint8]) -> pyvips.Image:
    """A quarter of the frame, too dark, upright, 321 × 241: odd sides."""
    return pyvips.Image.new_from_array(np.ascontiguousarray(picture[200:441, 400:721] // 3))


def mean(image: pyvips.Image) -> float:
    return image[0].avg() / (65535 if image.format == "ushort" else 255)


@pytest.mark.parametrize(("kind", "suffix"), FORMATS)
def test_bit_depth_channels_and_alpha_stay(kind: str, suffix: str, vips: pyvips.Image, tmp_path: Path) -> None:
    source, target = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    KINDS[kind](vips).write_to_file(str(source), **({"lossless": True} if suffix == ".webp" else {}))
    report = enhance_image(source, target, threads=1)
    before, after = (pyvips.Image.new_from_file(str(path)) for path in (source, target))
    assert (after.width, after.height, after.bands, after.format) == (321, 241, before.bands, before.format)
    assert after.interpretation == before.interpretation
    assert (report.width, report.height, report.channels, report.warnings) == (321, 241, before.bands, [])
    assert mean(after) > mean(before) + 0.02
    if before.hasalpha():
        assert (after[after.bands - 1] - before[before.bands - 1]).abs().max() == 0


@pytest.mark.parametrize(("kind", "suffix"), [pair for pair in FORMATS if pair[1] != ".jpg"])
def test_strength_0_keeps_every_pixel(kind: str, suffix: str, vips: pyvips.Image, tmp_path: Path) -> None:
    source, target = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    KINDS[kind](vips).write_to_file(str(source), **({"lossless": True} if suffix == ".webp" else {}))
    enhance_image(source, target, strength=0, threads=1)
    before, after = (pyvips.Image.new_from_file(str(path)) for path in (source, target))
    assert (after - before).abs().max() == 0


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_metadata_and_orientation_stay(suffix: str, vips: pyvips.Image, tmp_path: Path) -> None:
    tagged = vips.copy()
    tagged.set_type(pyvips.GValue.gstr_type, "exif-ifd0-Make", "Acme (Acme, ASCII, 5 components, 5 bytes)")
    tagged.set_type(pyvips.GValue.gint_type, "orientation", 6)
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><!-- kept --></x:xmpmeta>'
    tagged.set_type(pyvips.GValue.blob_type, "xmp-data", xmp)
    icc = pyvips.Operation.call("profile_load", "p3")
    tagged.set_type(pyvips.GValue.blob_type, "icc-profile-data", icc)
    source, target = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    tagged.write_to_file(str(source))
    enhance_image(source, target, threads=1)
    before, after = (pyvips.Image.new_from_file(str(path)) for path in (source, target))
    assert after.get("icc-profile-data") == before.get("icc-profile-data") == icc
    assert after.get("xmp-data").rstrip(b"\0") == xmp
    assert after.get("orientation") == 6
    assert (after.width, after.height) == (321, 241)
    for name in before.get_fields():
        if name.startswith("exif-ifd"):
            assert after.get(name) == before.get(name)
    if suffix != ".tif":
        assert after.get("exif-ifd0-Make").startswith("Acme")


def test_the_network_sees_what_the_orientation_shows(vips: pyvips.Image, tmp_path: Path) -> None:
    turned = vips.rot90()
    turned.set_type(pyvips.GValue.gint_type, "orientation", 8)
    for name, image in (("turned", turned), ("upright", vips)):
        image.write_to_file(str(tmp_path / f"{name}.tif"))
        enhance_image(tmp_path / f"{name}.tif", tmp_path / f"{name}.out.tif", threads=1)
    shown, upright = (
        pyvips.Image.new_from_file(str(tmp_path / f"{name}.out.tif")).autorot().numpy().astype(int)
        for name in ("turned", "upright")
    )
    assert abs(shown - upright).max() <= 1


def test_preview_of_the_old_picture_goes(vips: pyvips.Image, tmp_path: Path) -> None:
    tagged = vips.copy()
    tagged.set_type(pyvips.GValue.gstr_type, "exif-ifd0-Make", "Acme (Acme, ASCII, 5 components, 5 bytes)")
    tagged.set_type(pyvips.GValue.blob_type, "jpeg-thumbnail-data", vips.resize(0.3).write_to_buffer(".jpg"))
    source, target = tmp_path / "in.jpg", tmp_path / "out.jpg"
    tagged.write_to_file(str(source))
    assert pyvips.Image.new_from_file(str(source)).get_typeof("jpeg-thumbnail-data")
    enhance_image(source, target, threads=1)
    assert not pyvips.Image.new_from_file(str(target)).get_typeof("jpeg-thumbnail-data")


@pytest.mark.parametrize(("mode", "sampling"), [("on", "4:2:0"), ("off", "4:4:4")])
def test_jpeg_chroma_sampling_stays(mode: str, sampling: str, vips: pyvips.Image, tmp_path: Path) -> None:
    source, target = tmp_path / "in.jpg", tmp_path / "out.jpg"
    vips.jpegsave(str(source), Q=90, subsample_mode=mode)
    enhance_image(source, target, threads=1)
    assert pyvips.Image.new_from_file(str(target)).get("jpeg-chroma-subsample") == sampling


def test_palette_and_one_bit_become_what_they_show(vips: pyvips.Image, tmp_path: Path) -> None:
    vips.write_to_file(str(tmp_path / "palette.png"), palette=True)
    (vips.colourspace("b-w") > 60).ifthenelse(255, 0).cast("uchar").write_to_file(str(tmp_path / "bit.png"), bitdepth=1)
    enhance_image(tmp_path / "palette.png", tmp_path / "palette.out.png", strength=0, threads=1)
    enhance_image(tmp_path / "bit.png", tmp_path / "bit.out.png", threads=1)
    for name in ("palette", "bit"):
        before, after = (pyvips.Image.new_from_file(str(tmp_path / f"{name}{end}.png")) for end in ("", ".out"))
        assert (after - before).abs().max() == 0


def test_format_that_holds_less_is_said(vips: pyvips.Image, tmp_path: Path) -> None:
    KINDS["rgba16"](vips).write_to_file(str(tmp_path / "in.png"))
    told: list[str] = []
    report = enhance_image(tmp_path / "in.png", tmp_path / "out.jpg", threads=1, on_warning=told.append)
    assert told == report.warnings == [
        ".jpg holds 8 bits a channel; the input has 16",
        ".jpg holds no transparency; it is flattened on black",
    ]


def test_streams(vips: pyvips.Image) -> None:
    source, target = io.BytesIO(vips.write_to_buffer(".png")), io.BytesIO()
    enhance_image(source, target, threads=1)
    assert pyvips.Image.new_from_buffer(target.getvalue(), "").get("vips-loader").startswith("png")
    source.seek(0)
    target = io.BytesIO()
    enhance_image(source, target, output_format="jpg", threads=1)
    assert pyvips.Image.new_from_buffer(target.getvalue(), "").get("vips-loader").startswith("jpeg")


def _write_bad(kind: str, vips: pyvips.Image, path: Path) -> None:
    whole = vips.write_to_buffer(".jpg")
    match kind:
        case "empty":
            path.write_bytes(b"")
        case "text":
            path.write_text("this is no picture\n" * 50)
        case "truncated":
            path.write_bytes(whole[: len(whole) // 2])
        case "cmyk":
            path.write_bytes(vips.colourspace("cmyk").write_to_buffer(".jpg"))
        case "float":
            path.write_bytes((vips / 255.0).write_to_buffer(".tif"))
        case "animation":
            pages = pyvips.Image.arrayjoin([vips, vips.invert()], across=1)
            pages.set_type(pyvips.GValue.gint_type, "page-height", vips.height)
            path.write_bytes(pages.write_to_buffer(".gif"))
        case "small":
            path.write_bytes(vips.crop(0, 0, 15, 200).write_to_buffer(".png"))


BAD = {
    "missing": "no such file",
    "empty": "the file is empty",
    "text": "not a whole picture of a known format (VipsForeignLoad: buffer is not in a known format)",
    "truncated": "not a whole picture of a known format (VipsJpeg: premature end of JPEG image)",
    "cmyk": "cmyk pixels of 4 × uchar are not supported; convert it to RGB or grey of 8 or 16 bits",
    "float": "pixels of 3 × float are not supported; convert it to RGB or grey of 8 or 16 bits",
    "animation": "holds 2 pictures; split it, or use enhance-video for an animation",
    "small": "15×200 is too small; each side must be at least 16 pixels",
}


@pytest.mark.parametrize(("kind", "message"), BAD.items())
def test_bad_input_is_one_line_and_leaves_nothing(kind: str, message: str, vips: pyvips.Image, tmp_path: Path) -> None:
    source = tmp_path / "in.jpg"
    _write_bad(kind, vips, source)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError) as error:
        enhance_image(source, tmp_path / "out.jpg", threads=1)
    assert str(error.value).startswith(f"{source}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.iterdir()) == before


def test_damage_inside_is_a_warning(vips: pyvips.Image, tmp_path: Path) -> None:
    data = bytearray(vips.write_to_buffer(".jpg", Q=90))
    data[5000:5002] = b"\xff\xd9"  # an end-of-image marker among the samples
    (tmp_path / "in.jpg").write_bytes(data)
    report = enhance_image(tmp_path / "in.jpg", tmp_path / "out.jpg", threads=1)
    (warning,) = report.warnings
    assert warning.startswith("the file is damaged (VipsJpeg: Corrupt JPEG data")


def test_targets_that_cannot_be(vips: pyvips.Image, tmp_path: Path) -> None:
    source = tmp_path / "in.png"
    vips.write_to_file(str(source))
    (tmp_path / "there.png").write_bytes(b"mine")
    (tmp_path / "link.png").symlink_to(source)
    for target, message in [
        ("in.png", "is the input itself"),
        ("link.png", "is the input itself"),
        ("there.png", "exists; choose another name or allow overwriting"),
        ("there.png/out.png", "there is no directory"),
        ("no/out.png", "there is no directory"),
        ("out.xyz", "can't be saved as a .xyz file; use one of .avif .gif .jfif .jpe .jpeg .jpg .png .tif .tiff .webp"),
        ("out", "can't be saved as a file without suffix; use one of"),
        (".", "is a directory"),
    ]:
        with pytest.raises((OutputError, UsageError)) as error:
            enhance_image(source, tmp_path / target, threads=1)
        assert message in str(error.value) and "\n" not in str(error.value)
    assert (tmp_path / "there.png").read_bytes() == b"mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.png", "link.png", "there.png"]
    with pytest.raises(OutputError):
        enhance_image(source, source, overwrite=True, threads=1)
    enhance_image(source, tmp_path / "there.png", overwrite=True, threads=1)
    assert pyvips.Image.new_from_file(str(tmp_path / "there.png")).width == 321


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder(vips: pyvips.Image, tmp_path: Path) -> None:
    vips.write_to_file(str(tmp_path / "in.png"))
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    with pytest.raises(OutputError, match="Permission denied"):
        enhance_image(tmp_path / "in.png", folder / "out.png", threads=1)


def test_settings_are_checked(vips: pyvips.Image, tmp_path: Path) -> None:
    vips.write_to_file(str(tmp_path / "in.png"))
    with pytest.raises(UsageError, match=r"^strength must be between 0 and 2, not 3$"):
        enhance_image(tmp_path / "in.png", tmp_path / "out.png", strength=3)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"<?xml version='1.0'?>\n<!-- by hand -->\n<svg xmlns='http://www.w3.org/2000/svg' width='20'/>",
         "is an SVG drawing; save it as PNG"),
        (b"\0\0\0\x1cftypheic\0\0\0\0mif1heic",
         "is a HEIC picture, which can't be read here; convert it to JPEG or PNG"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "is a JPEG XL picture; convert it to JPEG or PNG"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "is a JPEG 2000 picture; convert it to TIFF or PNG"),
        (b"\0\0\0\x20ftypisom\0\0\2\0", "is a video; use enhance-video"),
        (b"\x1a\x45\xdf\xa3\x01\0", "is a video; use enhance-video"),
        (b"%PDF-1.7\n", "is a PDF; save its page as PNG"),
        (b"BM\x36\0\0\0", "is a BMP picture; convert it to PNG"),
        (b"P6\n2 2\n255\n", "is no JPEG, PNG, WebP, TIFF, AVIF or GIF; convert it to PNG or TIFF"),
    ],
)  # fmt: skip
def test_files_of_another_kind_are_named(data: bytes, what: str, tmp_path: Path) -> None:
    source = tmp_path / "in.png"
    source.write_bytes(data)
    with pytest.raises(InputError) as error:
        enhance_image(source, tmp_path / "out.png", threads=1)
    assert str(error.value) == f"{source}: {what}"
    assert not (tmp_path / "out.png").exists()
