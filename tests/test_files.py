"""Targets: names, pipes, devices, links, permissions; read by another FFmpeg."""

from __future__ import annotations

import json
import os
import stat
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import pyvips
from click.testing import CliRunner, Result

from rtlit.commands import main
from rtlit.commands.batch import json_line
from rtlit.errors import OutputError
from rtlit.files import fitting, write
from tests import outside

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="names and special files of POSIX")
QUICK = ("--threads", "1", "-q", "--preset", "ultrafast")


def rtlit(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("clip") / "v.mp4"
    picture = ("-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=0.2")
    return outside.make(path, *picture, "-c:v", "libx264", "-preset", "ultrafast").read_bytes()


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def whole(path: Path) -> bool:
    """Whether it has the clip's five frames."""
    return len(outside.frames(path.absolute())) == 5


NAMES = [
    "12:30:05", "Talk: part 1", "http:x", "concat:a|b", "subfile,,start,0,end,9,,:x", "pipe:1", "data:x", "file:x",
    "a\nb", "  lead", "a[1]", "x%03d", "-dash", "a*b?", "bad\udcff", "lavfi:x", "crypto:x", "é" * 110,
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_path_is_a_path(name: str, clip: bytes) -> None:
    Path(f"{name}.mp4").write_bytes(clip)
    result = rtlit("enhance-video", *QUICK, "--", f"{name}.mp4")
    assert (result.exit_code, result.output) == (0, "")
    os.rename(f"{name}.enhanced.mp4", "result.mp4")
    assert whole(Path("result.mp4"))
    assert len(os.listdir()) == 2


def test_longest_names(clip: bytes) -> None:
    name = "n" * 251 + ".mp4"
    Path("in.mp4").write_bytes(clip)
    assert rtlit("enhance-video", *QUICK, "in.mp4", "-o", name).exit_code == 0
    assert whole(Path(name))
    assert rtlit("enhance-video", *QUICK, name).exit_code == 0  # its own name is cut to make room for the mark
    cut = "n" * 242 + ".enhanced.mp4"
    assert whole(Path(cut))
    result = rtlit("enhance-video", *QUICK, "in.mp4", "-o", "n" * 256)
    assert result.exit_code == 1 and "too long" in result.stderr
    picture = "é" * 125 + ".png"
    pyvips.Image.black(32, 32).write_to_file("in.png")
    assert rtlit("enhance-image", "-q", "--threads", 1, "in.png", "-o", picture).exit_code == 0
    assert sorted(os.listdir()) == sorted(["in.mp4", "in.png", name, cut, picture])


def test_cut_names_are_whole_characters() -> None:
    assert fitting("é" * 200, ".part") == "é" * 125 + ".part"
    assert fitting("short", ".part") == "short.part"


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".y4m", ""])
@pytest.mark.parametrize("overwrite", [True, False])
def test_pipes_are_written_into(suffix: str, overwrite: bool, clip: bytes) -> None:
    Path("in.mp4").write_bytes(clip)
    pipe = Path(f"pipe{suffix}")
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()), daemon=True)
    reader.start()
    codec = () if suffix == ".y4m" else ("--preset", "ultrafast")
    options = ("--overwrite",) if overwrite else ()
    result = rtlit("enhance-video", "-q", "--threads", 1, *codec, "in.mp4", "-o", pipe, *options)
    reader.join(20)
    assert (result.exit_code, result.output) == (0, "")
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    Path("got").write_bytes(got[0])
    assert whole(Path("got"))


def test_pictures_are_written_into_pipes() -> None:
    pyvips.Image.black(32, 32).write_to_file("in.png")
    os.mkfifo("pipe.jpg")
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(Path("pipe.jpg").read_bytes()), daemon=True)
    reader.start()
    assert rtlit("enhance-image", "-q", "--threads", 1, "in.png", "-o", "pipe.jpg", "--overwrite").exit_code == 0
    reader.join(20)
    assert got[0].startswith(b"\xff\xd8") and stat.S_ISFIFO(os.stat("pipe.jpg").st_mode)


def test_full_device_is_one_line(clip: bytes) -> None:
    if not Path("/dev/full").is_char_device():
        pytest.skip("no /dev/full here")
    Path("in.mp4").write_bytes(clip)
    Path("full").symlink_to("/dev/full")  # a link to a device is that device
    result = rtlit("enhance-video", *QUICK, "in.mp4", "-o", "full", "--overwrite")
    assert result.exit_code == 1
    assert result.stderr == "rtlit: full: can't be written: No space left on device\n"
    assert Path("/dev/full").is_char_device() and Path("full").is_symlink()


def test_what_is_no_target(tmp_path: Path, clip: bytes) -> None:
    import socket

    Path("in.mp4").write_bytes(clip)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s.mp4")
        result = rtlit("enhance-video", *QUICK, "in.mp4", "-o", "s.mp4", "--overwrite")
    assert result.exit_code == 1 and "is neither a file, a pipe nor a character device" in result.stderr
    assert stat.S_ISSOCK(os.stat("s.mp4").st_mode)


def test_links_stay_and_what_they_point_to_is_written(clip: bytes) -> None:
    Path("in.mp4").write_bytes(clip)
    Path("far").mkdir()
    Path("far/real.mp4").write_bytes(b"old")
    Path("link.mp4").symlink_to("far/real.mp4")
    Path("new.mp4").symlink_to("far/new.mp4")
    assert rtlit("enhance-video", *QUICK, "in.mp4", "-o", "link.mp4").exit_code == 1
    for link in ("link.mp4", "new.mp4"):
        assert rtlit("enhance-video", *QUICK, "in.mp4", "-o", link, "--overwrite").exit_code == 0
        assert Path(link).is_symlink()
    assert whole(Path("far/real.mp4")) and whole(Path("far/new.mp4"))


@pytest.mark.parametrize("umask", [0o022, 0o077])
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644, 0o444, 0o666])
def test_permissions_are_the_inputs_less_the_umask(mode: int, umask: int) -> None:
    pyvips.Image.black(32, 32).write_to_file("in.png")
    os.chmod("in.png", mode)
    before = os.umask(umask)
    try:
        write("out.png", b"data", "in.png")
        write("other.png", b"data")
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat("out.png").st_mode) == mode & ~umask
    assert stat.S_IMODE(os.stat("other.png").st_mode) == 0o666 & ~umask


def test_private_video_stays_private(clip: bytes) -> None:
    Path("in.mp4").write_bytes(clip)
    os.chmod("in.mp4", 0o600)
    assert rtlit("enhance-video", *QUICK, "in.mp4").exit_code == 0
    assert stat.S_IMODE(os.stat("in.enhanced.mp4").st_mode) == 0o600


def test_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="can't be written"):
        write(tmp_path / "no" / "out.png", b"data")
    assert not os.listdir()


def test_folders_take_what_holds_a_video_and_count_the_rest(clip: bytes) -> None:
    Path("clips").mkdir()
    for name in ("a.weird", "nosuffix"):
        Path("clips", name).write_bytes(clip)
    moving = ("-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=0.2")
    for name in ("b.m1v", "c.gif"):
        outside.make(Path("clips", name).absolute(), *moving)
    Path("clips/notes.txt").write_text("no video")
    Path("clips/list.m3u8").write_text("#EXTM3U\n#EXTINF:1,\na.weird\n")
    Path("clips/.hidden").write_text("")
    Path("clips/old.enhanced.mp4").write_bytes(clip)
    pyvips.Image.black(32, 32).write_to_file("clips/p.jpg")
    result = rtlit("enhance-video", "--threads", 1, "clips", "--output-dir", "out")
    assert result.exit_code == 0
    assert "clips: 3 files passed over, no videos (.jpg, .m3u8, .txt)\n" in result.stderr
    assert sorted(os.listdir("out")) == [f"{name}.enhanced.mkv" for name in ("a", "b", "c", "nosuffix")]
    assert np.all([len(outside.frames(path.absolute())) > 1 for path in Path("out").iterdir()])


@pytest.mark.parametrize("command", ["enhance-video", "enhance-image"])
def test_urls_are_no_targets_and_links_to_nothing_are_told(command: str, clip: bytes) -> None:
    Path("in.mp4").write_bytes(clip)
    Path("gone.mp4").symlink_to("nowhere.mp4")
    for option in ("-o", "--output-dir"):
        result = rtlit(command, "in.mp4", option, "http://host/out.mp4")
        assert (result.exit_code, result.stderr) == (
            2,
            f"rtlit: {option} http://host/out.mp4 is a URL; results are written to files: name one, and upload it\n",
        )
    result = rtlit(command, "gone.mp4")
    assert (result.exit_code, result.stderr) == (1, "rtlit: gone.mp4: is a link to nowhere.mp4, which isn't there\n")
    assert sorted(os.listdir()) == ["gone.mp4", "in.mp4"]


def test_names_that_are_no_utf8_in_json() -> None:
    name = os.fsdecode(b"no\xff.png")
    text = json_line({"input": name, "umlaut": "ü"})
    assert text.encode("utf-8") == b'{"input": "no\\udcff.png", "umlaut": "\xc3\xbc"}'  # what a strict stdout takes
    assert json.loads(text)["input"] == name


def test_a_name_of_two_lines_is_told_on_one() -> None:
    pyvips.Image.black(32, 32).write_to_file("in.png")
    os.rename("in.png", "a\nb.png")
    result = rtlit("enhance-image", "--threads", 1, "a\nb.png")
    assert result.exit_code == 0
    assert result.stderr.startswith("a b.png → a b.enhanced.png: ") and result.stderr.count("\n") == 1


def test_an_avi_in_a_pipe_has_no_length_and_says_so(clip: bytes) -> None:
    Path("in.mp4").write_bytes(clip)
    os.mkfifo("pipe.avi")
    reader = threading.Thread(target=lambda: Path("pipe.avi").read_bytes(), daemon=True)
    reader.start()
    result = rtlit("enhance-video", "--threads", 1, "in.mp4", "-o", "pipe.avi")
    reader.join(20)
    assert result.exit_code == 0
    assert result.stderr.startswith("in.mp4: warning: this AVI gets neither an index nor its length, for a pipe can't")
    assert "warning" not in rtlit("enhance-video", "--threads", 1, "in.mp4", "-o", "file.avi").stderr


@pytest.mark.parametrize("form", ["mkv", ".MKV", "matroska"])
def test_formats_by_any_of_their_names(form: str, clip: bytes) -> None:
    Path("in.mp4").write_bytes(clip)
    assert rtlit("enhance-video", *QUICK, "in.mp4", "--format", form).exit_code == 0
    assert Path("in.enhanced.mkv").read_bytes().startswith(b"\x1a\x45\xdf\xa3")
    pyvips.Image.black(32, 32).write_to_file("p.png")
    assert rtlit("enhance-image", "-q", "--threads", 1, "p.png", "--format", ".JPG").exit_code == 0
    assert Path("p.enhanced.jpg").read_bytes().startswith(b"\xff\xd8")


@pytest.mark.parametrize("form", ["image2", "hls", "null", "nonsense"])
def test_formats_that_cannot_be_written(form: str, clip: bytes) -> None:
    Path("in.mp4").write_bytes(clip)
    result = rtlit("enhance-video", *QUICK, "in.mp4", "--format", form)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"rtlit: --format {form}: can't write such a file; use one of mp4 m4v mov ")
    assert os.listdir() == ["in.mp4"]


@pytest.mark.parametrize("command", ["enhance-video", "enhance-image"])
def test_empty_names_are_not_this_folder(command: str, clip: bytes) -> None:
    Path("in.mp4").write_bytes(clip)
    for args in ([""], ["in.mp4", "-o", ""], ["in.mp4", "--output-dir", ""]):
        result = rtlit(command, *args)
        assert (result.exit_code, result.stderr) == (
            2, "rtlit: a name is empty; name a file or a folder (. is this one)\n",
        )  # fmt: skip
    result = rtlit(command, "in.mp4", "-o", "new/")
    assert (result.exit_code, result.stderr) == (2, "rtlit: -o new/ is a folder; use --output-dir new/\n")
    assert os.listdir() == ["in.mp4"]


def test_an_animated_webp_that_comes_through_a_pipe(clip: bytes) -> None:
    still = pyvips.Image.black(32, 32, bands=3).copy(interpretation="srgb")
    pages = pyvips.Image.arrayjoin([still, still.invert()], across=1)
    pages.set_type(pyvips.GValue.gint_type, "page-height", 32)
    data = pages.write_to_buffer(".webp")
    os.mkfifo("pipe.webp")
    threading.Thread(target=lambda: Path("pipe.webp").write_bytes(data), daemon=True).start()
    result = rtlit("enhance-video", *QUICK, "pipe.webp", "-o", "out.mkv")
    assert result.exit_code == 1
    assert "is a WebP that FFmpeg can't read, an animation or damaged; convert it to GIF or APNG" in result.stderr
    assert os.listdir() == ["pipe.webp"]


def test_names_of_any_bytes_and_length_in_what_is_saved(tmp_path: Path) -> None:
    pyvips.Image.gaussnoise(64, 48, mean=90).cast("uchar").write_to_file("in.png")
    names = [b"no\xff.png", b"n" * 251 + b".png", "é".encode() * 125 + b"b.png"]
    os.mkdir("photos")
    for name in names:
        os.link(b"in.png", b"photos/" + name)
    words = ("--threads", "1")
    result = rtlit("evaluate", "photos", "--save", "saved", "--sheet", "sheet.html", *words)
    assert result.exit_code == 0
    assert sorted(os.listdir(b"saved")) == sorted(names)
    assert "no?" in Path("sheet.html").read_text("utf-8")
    assert rtlit("train", "simulate", "photos", "-o", "dim", "--size", "64", *words).exit_code == 0
    assert len(os.listdir("dim")) == 3 and max(len(name) for name in os.listdir(b"dim")) <= 255
