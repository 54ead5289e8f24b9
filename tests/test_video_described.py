"""What a container says about the picture beside its size: pixel aspect, stereo and 360°, cropping, unknown things."""

from __future__ import annotations

import io
import re
import struct
import zlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from rtlit.errors import InputError, OutputError, RtlitError, UsageError
from rtlit.video import header, matroska
from rtlit.video.matroska import element, unsigned
from tests.outside import ffmpeg, frames, make, program
from tests.video_tools import enhance

PICTURE = ("-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=0.2")
TURNED_SPHERE = element(
    matroska.PROJECTION,
    unsigned(0x7671, 1) + element(0x7672, bytes(20)) + matroska.floats(0x7673, (10.0, 20.0, 30.0)),
)
WHOLE_SPHERE = element(matroska.PROJECTION, unsigned(0x7671, 1) + element(0x7672, bytes(20)))
TILE = element(
    matroska.PROJECTION, unsigned(0x7671, 1) + element(0x7672, bytes(4) + struct.pack(">4I", 0, 0, 1 << 30, 1 << 30))
)
CUBE = element(matroska.PROJECTION, unsigned(0x7671, 2) + element(0x7672, bytes(8) + struct.pack(">I", 7)))


def told(path: Path) -> str:
    """What the other ffmpeg says about a file's streams."""
    import subprocess

    command = [program(), "-hide_banner", "-i", str(path)]
    return subprocess.run(command, capture_output=True, check=False).stderr.decode(errors="replace")


def with_elements(source: Path, target: Path, video: bytes) -> Path:
    """A copy of a Matroska file with more elements in its Video, as another muxer would have written them."""
    data = source.read_bytes()

    def grown(ident: int, payload: bytes) -> bytes:
        if ident in (matroska.TRACKS, matroska.ENTRY, matroska.VIDEO):
            parts = ((i, payload[b:e]) for i, b, e in matroska.children(payload) if i != matroska.CRC32)
            payload = b"".join(grown(*part) for part in parts) + (video if ident == matroska.VIDEO else b"")
        return element(ident, payload)

    (_, _, end), (_, begin, _) = list(matroska.children(data))[:2]
    stale = (0x114D9B74, 0x1C53BB6B, matroska.VOID)  # positions would be wrong
    parts = ((i, data[b:e]) for i, b, e in matroska.children(data, begin) if i not in stale)
    body = b"".join(grown(i, p) if i == matroska.TRACKS else element(i, p) for i, p in parts)
    target.write_bytes(data[:end] + element(matroska.SEGMENT, body))
    return target


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five frames of H.264 in Matroska."""
    return make(tmp_path_factory.mktemp("plain") / "plain.mkv", *PICTURE, "-c:v", "libx264", "-preset", "ultrafast")


@pytest.mark.parametrize(
    ("codec", "suffix"),
    [("ffv1", ".mkv"), ("libvpx", ".webm"), ("libvpx-vp9", ".webm"), ("libsvtav1", ".mkv"), ("libx264", ".mkv")],
)
@pytest.mark.parametrize("aspect", ["16:15", "32:27", "8:9"])
def test_matroska_says_the_pixel_aspect(tmp_path: Path, codec: str, suffix: str, aspect: str) -> None:
    sar = ("-vf", f"setsar={aspect.replace(':', '/')}", "-metadata:s:v", "title=A name")
    source = make(tmp_path / "in.mov", *PICTURE, *sar, "-c:v", "libx264", "-preset", "ultrafast")
    target = tmp_path / f"out{suffix}"
    report = enhance(source, target, codec=codec)
    assert not any("aspect" in line for line in report.warnings)
    assert f"SAR {aspect}" in told(target)
    assert len(frames(target)) == 5
    assert f"\x1f{aspect}".encode() not in target.read_bytes() and "A name" in told(target)
    assert_whole(target.read_bytes())


def assert_whole(data: bytes) -> None:
    """The elements of a finished file end where they should, and the checksum of its tracks is right."""
    tracks = matroska.find(data, matroska.SEGMENT, matroska.TRACKS)
    assert tracks is not None
    first = next(matroska.children(tracks))
    if first[0] == matroska.CRC32:
        assert int.from_bytes(tracks[first[1] : first[2]], "little") == zlib.crc32(tracks[first[2] :])
    for ident, begin, end in matroska.children(tracks):
        if ident == matroska.ENTRY:
            assert list(matroska.children(tracks[begin:end]))[-1][2] == end - begin


class Pipe:
    """What can only be written to."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> int:
        self.data += data
        return len(data)


class WriteOnly(io.BytesIO):
    """A file opened for writing: it can be gone back in, but not read."""

    def read(self, *_: Any) -> bytes:
        raise OSError

    def readable(self) -> bool:
        return False


@pytest.mark.parametrize("kind", [Pipe, WriteOnly, io.BytesIO])
@pytest.mark.parametrize("container", ["matroska", "mp4"])
def test_streams_say_it_too(tmp_path: Path, kind: Any, container: str) -> None:
    wide = make(tmp_path / "wide.mkv", *PICTURE, "-vf", "setsar=4/3", "-c:v", "libx264", "-preset", "ultrafast")
    stream = kind()
    enhance(with_elements(wide, tmp_path / "in.mkv", TILE), stream, output_format=container, codec="libvpx-vp9")
    target = tmp_path / "out"
    target.write_bytes(stream.data if kind is Pipe else stream.getvalue())
    said = told(target)
    assert "DAR 16:9" in said and "tiled equirectangular" in said
    assert len(frames(target)) == 5


def test_a_copied_video_keeps_its_pixel_aspect(tmp_path: Path) -> None:
    two = (*PICTURE, "-map", "0:v", "-map", "0:v", "-c:v:0", "libx264", "-c:v:1", "ffv1", "-filter:v:1", "setsar=4/3")
    source = make(tmp_path / "in.mkv", *two)
    enhance(source, tmp_path / "out.mkv")
    lines = [line for line in told(tmp_path / "out.mkv").splitlines() if "Video:" in line]
    assert ["SAR 4:3" in line for line in lines] == [False, True]


@pytest.mark.parametrize(("codec", "suffix"), [("ffv1", ".avi"), ("libvpx-vp9", ".nut"), (None, ".y4m")])
def test_a_pixel_aspect_that_is_lost_is_said(tmp_path: Path, codec: str | None, suffix: str) -> None:
    source = make(tmp_path / "in.mov", *PICTURE, "-vf", "setsar=4/3", "-c:v", "libx264")
    report = enhance(source, tmp_path / f"out{suffix}", codec=codec)
    assert [line for line in report.warnings if "pixel aspect ratio 4/3 is lost" in line]


def test_display_sizes_are_exact() -> None:
    """Hand-worked: 720×576 at 16:15 is 4:3; 720×480 at 10:11 is 15:11; halves of a stereo pair; borders cut off."""
    cases = [
        ((720, 576), Fraction(16, 15), b"", (768, 576)),
        ((720, 480), Fraction(10, 11), b"", (660, 484)),
        ((640, 480), Fraction(2), unsigned(matroska.STEREO_MODE, 1), (640, 480)),
        ((1920, 1088), Fraction(4, 3), unsigned(matroska.CROP_BOTTOM, 8), (2560, 1080)),
        ((64, 48), Fraction(10007, 10009), b"", (64, 48)),
    ]
    for size, aspect, more, wanted in cases:
        video = unsigned(matroska.PIXEL_WIDTH, size[0]) + unsigned(matroska.PIXEL_HEIGHT, size[1]) + more
        name = element(matroska.NAME, matroska.marked("", aspect).encode())
        track = element(matroska.ENTRY, name + element(matroska.VIDEO, video))
        file = element(matroska.EBML, b"") + element(matroska.SEGMENT, element(matroska.TRACKS, track))
        head = matroska.complete(file)
        assert head is not None and len(head) == len(file)
        assert matroska.complete(file[:-1]) is None
        found = matroska.find(head, matroska.SEGMENT, matroska.TRACKS, matroska.ENTRY, matroska.VIDEO) or b""
        displayed = [matroska.find(found, i) or b"" for i in (matroska.DISPLAY_WIDTH, matroska.DISPLAY_HEIGHT)]
        assert tuple(int.from_bytes(value, "big") for value in displayed) == wanted


MAPPINGS = {
    "turned": (TURNED_SPHERE, "equirectangular (10.000000/20.000000/30.000000)"),
    "tile": (TILE, "tiled equirectangular"),
    "cube": (CUBE, "cubemap"),
}


@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize(
    ("suffix", "codec"),
    [(".mkv", None), (".mp4", None), (".mp4", "libx265"), (".mp4", "libsvtav1"), (".webm", "libvpx-vp9")],
)
def test_360_and_stereo_are_kept(tmp_path: Path, plain: Path, mapping: str, suffix: str, codec: str | None) -> None:
    elements, words = MAPPINGS[mapping]
    source = with_elements(plain, tmp_path / "in.mkv", elements + unsigned(matroska.STEREO_MODE, 3))
    assert words in told(source)
    target = tmp_path / f"out{suffix}"
    assert enhance(source, target, codec=codec).warnings == []
    assert words in told(target) and "top and bottom" in told(target)
    again = tmp_path / "again.mkv"  # and from there
    enhance(target, again, codec="ffv1")
    assert words in told(again) and "top and bottom" in told(again)


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".ts"])
def test_a_copied_video_keeps_its_360_or_that_is_said(tmp_path: Path, plain: Path, suffix: str) -> None:
    sphere = with_elements(plain, tmp_path / "sphere.mkv", WHOLE_SPHERE + unsigned(matroska.STEREO_MODE, 3))
    large = ("-f", "lavfi", "-i", "testsrc2=s=640x480:r=25:d=0.2", "-map", "0", "-map", "1")
    source = make(tmp_path / "in.mkv", "-i", sphere, *large, "-c:v:0", "copy", "-c:v:1", "ffv1")
    report = enhance(source, tmp_path / f"out{suffix}")
    lines = [line for line in report.warnings if "video stream 0 loses its" in line]
    if suffix == ".ts":
        assert [line.split(":")[0] for line in lines] == [
            f"video stream 0 loses its {what}" for what in ("stereo layout", "360° mapping")
        ]
        return
    assert not lines
    assert "equirectangular" in told(tmp_path / f"out{suffix}") and "top and bottom" in told(tmp_path / f"out{suffix}")


@pytest.mark.parametrize("suffix", [".mov", ".ts", ".avi", ".flv"])
def test_360_that_is_lost_is_said_once(tmp_path: Path, plain: Path, suffix: str) -> None:
    source = with_elements(plain, tmp_path / "in.mkv", CUBE)
    report = enhance(source, tmp_path / f"out{suffix}")
    muxer = "mpegts" if suffix == ".ts" else suffix[1:]
    lines = [line for line in report.warnings if "360°" in line]
    assert lines == [f"360° mapping is not carried over: libx264 in {muxer} can't hold it"]


def test_quicktime_keeps_a_whole_sphere(tmp_path: Path, plain: Path) -> None:
    source = with_elements(plain, tmp_path / "in.mkv", WHOLE_SPHERE)
    assert enhance(source, tmp_path / "out.mov").warnings == []
    assert "equirectangular" in told(tmp_path / "out.mov")


def test_a_comparison_has_another_shape(tmp_path: Path, plain: Path) -> None:
    source = with_elements(plain, tmp_path / "in.mkv", TILE + unsigned(matroska.STEREO_MODE, 1))
    report = enhance(source, tmp_path / "out.mkv", compare=True)
    assert report.warnings == ["stereo layout, 360° mapping are left out: a comparison has another shape"]
    assert "side by side" not in told(tmp_path / "out.mkv") and "pherical" not in told(tmp_path / "out.mkv")


def test_googles_older_box_is_understood(tmp_path: Path) -> None:
    made = make(tmp_path / "made.mp4", *PICTURE, "-c:v", "libx264", "-preset", "ultrafast")
    text = b"".join(
        f"<GSpherical:{key}>{value}</GSpherical:{key}>".encode()
        for key, value in (
            ("Spherical", "true"),
            ("Stitched", "true"),
            ("StitchingSoftware", "none"),
            ("ProjectionType", "equirectangular"),
            ("StereoMode", "left-right"),
        )
    )
    payload = bytes.fromhex("ffcc8263f8554a938814587a02521fdd") + b"<rdf:SphericalVideo>" + text
    payload += b"</rdf:SphericalVideo>"
    box = struct.pack(">I", len(payload) + 8) + b"uuid" + payload
    data = made.read_bytes()
    for name in (b"moov", b"trak"):  # the moov stands at the end: nothing moves
        at = data.index(name) - 4
        size = int.from_bytes(data[at : at + 4], "big")
        data = data[:at] + (size + len(box)).to_bytes(4, "big") + data[at + 4 :]
    end = data.index(b"trak") - 4 + int.from_bytes(data[data.index(b"trak") - 4 : data.index(b"trak")], "big")
    source = tmp_path / "in.mp4"
    source.write_bytes(data[: end - len(box)] + box + data[end - len(box) :])
    assert "side by side" in told(source)
    enhance(source, tmp_path / "out.mp4")
    assert "side by side" in told(tmp_path / "out.mp4") and "equirectangular" in told(tmp_path / "out.mp4")
    assert b"st3d" in (written := (tmp_path / "out.mp4").read_bytes()) and b"sv3d" in written and b"vexu" not in written


def test_stereo_layouts_go_where_they_can(tmp_path: Path) -> None:
    """MP4 knows two layouts, WebM no alternating frames; H.264 says some itself; a tint is Matroska's alone."""
    source = make(tmp_path / "in.mkv", *PICTURE, "-c:v", "ffv1", "-metadata:s:v", "stereo_mode=right_left")
    assert enhance(source, tmp_path / "a.webm", codec="libvpx-vp9").warnings == []
    assert re.search(r"side by side.*\(inverted\)", told(tmp_path / "a.webm"))
    lost = "stereo layout is not carried over: libx264 in mp4 can't hold it"
    assert enhance(source, tmp_path / "a.mp4", codec="libx264").warnings == [lost]
    assert "side by side" not in told(tmp_path / "a.mp4")
    tint = make(tmp_path / "tint.mkv", *PICTURE, "-c:v", "ffv1", "-metadata:s:v", "stereo_mode=anaglyph_cyan_red")
    assert enhance(tint, tmp_path / "tint2.mkv").warnings == []
    assert "anaglyph_cyan_red" in told(tmp_path / "tint2.mkv")
    assert "stereo layout" in enhance(tint, tmp_path / "tint.mp4").warnings[0]
    packed = ("-c:v", "libx264", "-x264-params", "frame-packing=3")
    stream = make(tmp_path / "in.ts", *PICTURE, *packed)
    assert enhance(stream, tmp_path / "out.ts").warnings == []
    enhance(stream, tmp_path / "out.mp4", codec="libx265")
    assert "side by side" in told(tmp_path / "out.mp4")


@pytest.mark.parametrize(("suffix", "codec"), [(".mkv", "ffv1"), (".mp4", None), (".mov", None), (".ts", None)])
def test_cropping(tmp_path: Path, plain: Path, suffix: str, codec: str | None) -> None:
    crops = unsigned(matroska.CROP_BOTTOM, 8) + unsigned(matroska.CROP_LEFT, 2)
    shape = unsigned(matroska.DISPLAY_WIDTH, 62) + unsigned(matroska.DISPLAY_HEIGHT, 40)
    source = with_elements(plain, tmp_path / "in.mkv", crops + shape)
    target = tmp_path / f"out{suffix}"
    warnings = enhance(source, target, codec=codec).warnings
    shown = len(ffmpeg("-i", target, "-frames:v", 1, "-f", "rawvideo", "-pix_fmt", "gray", "-"))
    assert (shown, bool(warnings)) == ((64 * 48, True) if suffix == ".ts" else (62 * 40, False))


@pytest.mark.parametrize(("suffix", "codec"), [(".webm", "libvpx-vp9"), (".mkv", "ffv1"), (".mp4", "libx264")])
def test_containers_hold_the_mastering_screen(tmp_path: Path, suffix: str, codec: str) -> None:
    params = "log-level=none:master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"
    x265 = ("-pix_fmt", "yuv420p10le", "-c:v", "libx265", "-x265-params", f"{params}:max-cll=1000,400")
    source = make(tmp_path / "in.mp4", *PICTURE, "-vf", "scale=128:96", *x265)
    report = enhance(source, tmp_path / f"out{suffix}", codec=codec)
    assert not any("HDR10" in line for line in report.warnings)
    said = told(tmp_path / f"out{suffix}")
    assert "MaxCLL=1000" in said and "MaxFALL=400" in said and "max_luminance=1000.0" in said


RENAMED = [
    ("S_TEXT/UTF8", "S_TEXT/XYZ8", "subtitle stream 2 is dropped: its codec is unknown here"),
    ("A_AAC", "A_XYZ", "audio stream 1 is dropped: its codec is unknown here"),
    ("V_FFV1", "V_XYZ1", "video stream 3 is dropped: its codec is unknown here"),
]


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_unknown_codecs_are_dropped_and_said(tmp_path: Path, suffix: str) -> None:
    words = tmp_path / "words.srt"
    words.write_text("1\n00:00:00,000 --> 00:00:00,100\nHello\n")
    inputs = (*PICTURE, "-f", "lavfi", "-i", "sine=d=0.2", "-i", words, "-map", 0, "-map", 1, "-map", 2, "-map", 0)
    codecs = ("-c:v:0", "libx264", "-c:a", "aac", "-c:s", "srt", "-c:v:1", "ffv1", "-s:v:1", "32x24")
    data = make(tmp_path / "made.mkv", *inputs, *codecs).read_bytes()
    for old, new, _ in RENAMED:
        assert old.encode() in data
        data = data.replace(old.encode(), new.encode())
    (tmp_path / "in.mkv").write_bytes(data)
    report = enhance(tmp_path / "in.mkv", tmp_path / f"out{suffix}")
    assert {line for _, _, line in RENAMED} <= set(report.warnings)
    assert len(frames(tmp_path / f"out{suffix}")) == 5


def test_an_unknown_codec_alone_is_one_clear_error(tmp_path: Path, plain: Path) -> None:
    (tmp_path / "in.mkv").write_bytes(plain.read_bytes().replace(b"V_MPEG4/ISO/AVC", b"V_XYZXY/ISO/ABC"))
    with pytest.raises(InputError, match="no decoder"):
        enhance(tmp_path / "in.mkv", tmp_path / "out.mkv")


def test_side_data_that_pyav_has_no_name_for(tmp_path: Path) -> None:
    """EXIF in a JPEG, with the camera held upright; and the name of a PNG's profile, which PyAV would free twice."""
    from PIL import Image, ImageCms

    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "A camera"
    picture = Image.effect_noise((64, 48), 60).convert("RGB")
    picture.save(tmp_path / "in.jpg", exif=exif)
    report = enhance(tmp_path / "in.jpg", tmp_path / "out.mp4", codec="libx264")
    assert report.warnings == ["EXIF metadata is not carried over: libx264 in mp4 can't hold it"]
    assert "rotation of -90" in told(tmp_path / "out.mp4")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture.save(tmp_path / "in.png", icc_profile=profile)
    for _ in range(3):
        report = enhance(tmp_path / "in.png", tmp_path / "png.mp4", codec="libx264", overwrite=True)
    assert any("ICC profile" in line for line in report.warnings)


@pytest.mark.parametrize(
    ("name", "video", "error"),
    [
        ("out.mov", {"codec": "libsvtav1"}, OutputError),
        ("out.mp4", {"codec": "libx264", "options": (("profile", "nonsense"),)}, UsageError),
    ],
)
def test_what_cannot_begin_is_found_before_any_frame_is_analysed(
    tmp_path: Path, plain: Path, monkeypatch: pytest.MonkeyPatch, name: str, video: Any, error: type[RtlitError]
) -> None:
    from rtlit.enhancer import Enhancer

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("a frame was analysed")

    monkeypatch.setattr(Enhancer, "submit", never)
    with pytest.raises(error):
        enhance(plain, tmp_path / name, strength=1.0, **video)
    assert list(tmp_path.iterdir()) == []


def test_boxes_of_mp4_are_walked() -> None:
    moov = struct.pack(">I4s", 40, b"moov") + b"st3d" + struct.pack(">I4sI4s", 16, b"vexu", 8, b"eyes") + bytes(12)
    file = struct.pack(">I4sQ", 1, b"wide", 20) + bytes(4) + moov
    assert header.without_apples_box(file + b"more") == file.replace(b"vexu", b"free")
    assert header.without_apples_box(file[:-1]) is None
