"""What picture files hold beside the picture: refused, kept, or said to be lost with its announcement taken out."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest
import pyvips

from rtlit.errors import InputError
from rtlit.image import enhance_image
from rtlit.image_extras import without_announcements
from rtlit.video.probe import open_input
from tests import outside

MOVING = ("-f", "lavfi", "-i", "testsrc2=s=64x48:r=10:d=0.3")
RDF = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="4"{}</rdf:RDF></x:xmpmeta>'
)
GAIN = (
    ' xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0"'
    ' xmlns:Container="http://ns.google.com/photos/1.0/container/"'
    ' xmlns:Item="http://ns.google.com/photos/1.0/container/item/"><Container:Directory><rdf:Seq>'
    '<rdf:li rdf:parseType="Resource"><Container:Item Item:Semantic="GainMap" Item:Mime="image/jpeg"/></rdf:li>'
    "</rdf:Seq></Container:Directory></rdf:Description>"
)
MOTION = (
    ' xmlns:GCamera="http://ns.google.com/photos/1.0/camera/" GCamera:MotionPhoto="1" GCamera:MotionPhotoVersion="1"'
    ' GCamera:SpecialTypeID="x"/>'
)
MICRO = (
    ' xmlns:c="http://ns.google.com/photos/1.0/camera/"><c:MicroVideo>1</c:MicroVideo>'
    "<c:MicroVideoOffset>9</c:MicroVideoOffset></rdf:Description>"
)
DEPTH = ' xmlns:GDepth="http://ns.google.com/photos/1.0/depthmap/" GDepth:Format="RangeInverse"/>'


def jpeg(xmp: str = "", *segments: bytes) -> bytes:
    """A JPEG with an XMP packet and further APP2 segments."""
    image = pyvips.Image.black(64, 48, bands=3).copy(interpretation="srgb")
    if xmp:
        image = image.copy()
        image.set_type(pyvips.GValue.blob_type, "xmp-data", RDF.format(xmp).encode())
    data = bytes(image.write_to_buffer(".jpg"))
    app2 = b"".join(b"\xff\xe2" + struct.pack(">H", len(body) + 2) + body for body in segments)
    return data[:2] + app2 + data[2:]


def mpf(*kinds: int) -> bytes:
    """An MPF segment that lists pictures of these types (CIPA DC-007)."""
    entries = b"".join(struct.pack(">IIIHH", kind, 100, 0, 0, 0) for kind in kinds)
    head = struct.pack(">2sHI", b"MM", 42, 8) + struct.pack(">H", 1)
    return b"MPF\0" + head + struct.pack(">HHII", 0xB002, 7, len(entries), 26) + struct.pack(">I", 0) + entries


def enhanced(tmp_path: Path, data: bytes, suffix: str = ".jpg") -> tuple[bytes, list[str]]:
    source = tmp_path / f"in{suffix}"
    source.write_bytes(data)
    report = enhance_image(source, tmp_path / f"out{suffix}", threads=1)
    return (tmp_path / f"out{suffix}").read_bytes(), report.warnings


BESIDE = {
    "Ultra HDR": (jpeg(GAIN, mpf(0x30000, 0)) + jpeg(), "the HDR gain map"),
    "ISO 21496-1": (jpeg("/>", b"urn:iso:std:iso:ts:21496:-1\0\0\0\0\0", mpf(0x30000, 0)), "the HDR gain map"),
    "motion photo": (jpeg(MOTION) + b"\0\0\0\x18ftypmp42\0\0\0\0", "the motion photo's video"),
    "micro video": (jpeg(MICRO), "the motion photo's video"),
    "Samsung": (jpeg() + b"MotionPhoto_Data" + b"\0\0\0\x18ftypmp42", "the motion photo's video"),
    "MPO": (jpeg("/>", mpf(0x20002, 0x20002)), "the second picture (MPO)"),
    "depth": (jpeg(DEPTH), "the depth map"),
}


@pytest.mark.parametrize("name", BESIDE)
def test_what_is_beside_is_said_and_not_announced(name: str, tmp_path: Path) -> None:
    data, what = BESIDE[name]
    result, warnings = enhanced(tmp_path, data)
    assert warnings == [f"lost, for nothing here can write it: {what}"]
    marks = (b"hdrgm", b"Container", b"MotionPhoto", b"MicroVideo", b"GDepth", b"21496", b"MPF\0", b"ftyp")
    assert [mark for mark in marks if mark in result] == []
    if b"Rating" in data:
        assert b'xmp:Rating="4"' in result
    if name == "motion photo":
        assert b"SpecialTypeID" in result


def test_a_plain_jpeg_and_its_smaller_copies_are_no_loss(tmp_path: Path) -> None:
    packet = RDF.format("/>").encode()
    assert without_announcements(packet) == packet
    assert enhanced(tmp_path, jpeg("/>", mpf(0x30000, 0x10001)))[1] == []


ANIMATIONS = [(".png", ("-f", "apng")), (".gif", ()), (".avif", ("-c:v", "libsvtav1"))]


@pytest.mark.parametrize(("suffix", "codec"), ANIMATIONS)
def test_animations_are_refused_and_enhance_video_reads_them(
    suffix: str, codec: tuple[str, ...], tmp_path: Path
) -> None:
    source = outside.make(tmp_path / f"in{suffix}", *MOVING, *codec)
    with pytest.raises(InputError, match="enhance-video"):
        enhance_image(source, tmp_path / "out.png", threads=1)
    assert not (tmp_path / "out.png").exists()
    with open_input(source) as container:
        assert max(sum(1 for _ in container.decode(stream)) for stream in container.streams.video[-1:]) == 3


def test_animated_webp_has_another_way_out(tmp_path: Path) -> None:
    source = outside.make(tmp_path / "in.webp", *MOVING, "-c:v", "libwebp_anim")
    with pytest.raises(InputError, match="convert the animation to GIF or APNG"):
        enhance_image(source, tmp_path / "out.png", threads=1)
    with pytest.raises(InputError, match="is an animated WebP, which FFmpeg can't read; convert it to GIF or APNG"):
        open_input(source)


def test_colour_chunks_of_a_png_stay(tmp_path: Path) -> None:
    data = bytes(pyvips.Image.black(64, 48, bands=3).copy(interpretation="srgb").write_to_buffer(".png"))
    body = b"cICP" + bytes((9, 16, 0, 1))
    chunk = struct.pack(">I", 4) + body + struct.pack(">I", zlib.crc32(body))
    tagged = data[:33] + chunk + data[33:]
    result, warnings = enhanced(tmp_path, tagged, ".png")
    assert chunk in result and warnings == []
    pyvips.Image.new_from_buffer(result, "", fail_on="warning").copy_memory()
    (tmp_path / "t.png").write_bytes(tagged)
    report = enhance_image(tmp_path / "t.png", tmp_path / "t.jpg", threads=1)
    assert any("the HDR colour tag (PQ)" in line for line in report.warnings)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_tags_of_a_tiff_that_are_lost_are_said(order: str, suffix: str, tmp_path: Path) -> None:
    pixels = bytes(range(256)) * 3
    # Tag, type (2 ASCII, 3 SHORT, 4 LONG), count, value: a grey 32×24 picture, by the TIFF 6.0 specification.
    entries = [(256, 3, 1, 32), (257, 3, 1, 24), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8),
               (277, 3, 1, 1), (278, 3, 1, 24), (279, 4, 1, 768), (315, 2, 3, b"Me\0\0"),
               (33432, 2, 3, b"No\0\0")]  # fmt: skip
    data = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, 8 + len(pixels)) + pixels
    data += struct.pack(f"{order}H", len(entries))
    for tag, kind, count, value in entries:
        packed = value if isinstance(value, bytes) else struct.pack(f"{order}{'HI'[kind - 3]}", value).ljust(4, b"\0")
        data += struct.pack(f"{order}HHI", tag, kind, count) + packed
    (tmp_path / "in.tif").write_bytes(data + bytes(4))
    report = enhance_image(tmp_path / "in.tif", tmp_path / f"out{suffix}", threads=1)
    assert report.warnings == ["lost, for nothing here can write it: the artist, the copyright"]
