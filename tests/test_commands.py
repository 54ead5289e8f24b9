"""The command line: exact words, exit codes, and nothing left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import pytest
import pyvips
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from rtlit import __version__
from rtlit.commands import doctor as doctors, main
from rtlit.live.cameras import Camera, Mode

ROOT = Path(__file__).parent.parent
QUICK = ["--threads", "1", "--preset", "ultrafast", "--duration", "0.25"]


def rtlit(*args: object, **kwargs: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args], **kwargs)  # type: ignore[arg-type]


def frames(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def still(picture: NDArray[np.uint8]) -> bytes:
    return bytes(pyvips.Image.new_from_array(picture[::2, ::2].copy()).write_to_buffer(".jpg", Q=90))


class TestMain:
    def test_version(self) -> None:
        assert rtlit("--version").output == f"rtlit, version {__version__}\n"

    def test_help_names_every_command(self) -> None:
        result = rtlit("--help")
        assert result.exit_code == 0
        for name in ("enhance-video", "enhance-image", "evaluate", "train", "prompts", "doctor"):
            assert f"\n  {name} " in result.output

    def test_every_command_has_help(self) -> None:
        for name in ("enhance-video", "enhance-image", "evaluate", "train", "prompts", "doctor"):
            result = rtlit(name, "--help")
            assert result.exit_code == 0 and f"rtlit {name}" in result.output

    @pytest.mark.parametrize("args", [["--help"], ["enhance-video", "--help"], ["enhance-video", "nope.mp4"]])
    def test_words_need_no_heavy_imports(self, args: list[str]) -> None:
        code = (
            "import sys, rtlit.commands\n"
            "try: rtlit.commands.main(sys.argv[1:])\n"
            "finally: print('loaded:', *{'torch', 'av', 'numba', 'numpy', 'rich', 'pyvips'} & set(sys.modules))"
        )
        result = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, cwd=ROOT)
        assert result.stdout.splitlines()[-1] == "loaded:"

    @pytest.mark.parametrize(
        ("args", "message"),
        [
            (["colour"], "rtlit: No such command 'colour'. See rtlit --help.\n"),
            (["docter"], "rtlit: No such command 'docter'. Did you mean 'doctor'? See rtlit --help.\n"),
            (["--nope"], "rtlit: No such option '--nope'. See rtlit --help.\n"),
            (["enhance-video"], "Missing argument 'INPUT...'. See rtlit enhance-video --help.\n"),
            (["enhance-video", "--strength", "abc", "x"], "'abc' is not a valid number. See rtlit enhance-video "),
            (["enhance-video", "--strength", "3", "x"], "3.0 is not in the range 0<=x<=2.0. See"),
            (["enhance-video", "--start", "1:99", "x"], "'1:99' is not a time; give seconds (90) or H:MM:SS.ms"),
            (["enhance-video", "-e", "tune", "x"], "'tune' is not key=value, for example tune=film. See"),
            (["enhance-video", "--device", "tpu", "x"], "'tpu' is not one of 'auto', 'cpu', 'cuda'. See"),
            (["enhance-video", "-o", "y", "--output-dir", "z", "x"], "-o and --output-dir can't be used together\n"),
        ],
    )
    def test_wrong_usage_is_one_line(self, args: list[str], message: str) -> None:
        result = rtlit(*args)
        assert result.exit_code == 2
        assert message in result.stderr and result.stderr.count("\n") == 1
        assert result.stdout == ""

    def test_unexpected_error_is_one_line_and_verbose_shows_where(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*args: object, **kwargs: object) -> None:
            raise RuntimeError("two\nlines")

        monkeypatch.setattr("rtlit.image.enhance_image", broken)
        Path("a.jpg").touch()
        line = "rtlit: unexpected error: RuntimeError: two lines (--verbose shows where; please report it)\n"
        result = rtlit("enhance-image", "a.jpg")
        assert (result.exit_code, result.stderr) == (1, line)
        result = rtlit("enhance-image", "a.jpg", "-v")
        assert result.exit_code == 1 and result.stderr.endswith(line) and "Traceback" in result.stderr


class TestBatches:
    """Which inputs are found, where results go; with pictures, as they are quick."""

    def put(self, still: bytes, *names: str) -> None:
        for name in names:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_bytes(still)

    def tree(self) -> list[str]:
        return sorted(str(path) for path in Path().rglob("*") if path.is_file())

    def test_file_beside_itself_then_exists(self, still: bytes) -> None:
        self.put(still, "a.jpg")
        result = rtlit("enhance-image", "a.jpg", "--threads", 1)
        assert result.exit_code == 0 and result.stdout == ""
        assert result.stderr.startswith("a.jpg → a.enhanced.jpg: 640×360, 8 bit in ")
        assert self.tree() == ["a.enhanced.jpg", "a.jpg"]
        again = rtlit("enhance-image", "a.jpg", "--threads", 1)
        message = "rtlit: a.enhanced.jpg: exists; use --overwrite to replace it\n"
        assert (again.exit_code, again.stderr) == (1, message)
        assert rtlit("enhance-image", "a.jpg", "--overwrite", "-q", "--threads", 1).output == ""

    def test_folder_skips_what_is_done_and_its_own_results(self, still: bytes) -> None:
        self.put(still, "in/a.jpg", "in/b.JPG", "in/.hidden.jpg", "in/deep/c.jpg", "in/notes.txt")
        assert rtlit("enhance-image", "in", "--threads", 1).exit_code == 0
        done = ["in/.hidden.jpg", "in/a.enhanced.jpg", "in/a.jpg", "in/b.JPG", "in/b.enhanced.JPG", "in/deep/c.jpg"]
        assert self.tree() == [*done, "in/notes.txt"]
        again = rtlit("enhance-image", "in", "--threads", 1)
        assert again.exit_code == 0
        assert again.stderr == (
            "in: 1 file passed over, no pictures (.txt)\n"
            "in/a.jpg: in/a.enhanced.jpg exists, skipped\nin/b.JPG: in/b.enhanced.JPG exists, skipped\n"
        )

    def test_recursion_keeps_the_tree_in_the_output_folder(self, still: bytes) -> None:
        self.put(still, "in/a.jpg", "in/x/a.jpg", "in/x/y/a.jpg")
        result = rtlit("enhance-image", "in", "-r", "--output-dir", "out", "-q", "--threads", 1)
        assert (result.exit_code, result.output) == (0, "")
        assert self.tree()[3:] == ["out/a.enhanced.jpg", "out/x/a.enhanced.jpg", "out/x/y/a.enhanced.jpg"]

    def test_glob_in_quotes_and_repeated_inputs(self, still: bytes) -> None:
        self.put(still, "a1.jpg", "a2.jpg", "b.jpg")
        result = rtlit("enhance-image", "a*.jpg", "a1.jpg", "--output-dir", "out", "--threads", 1)
        assert result.exit_code == 0
        assert sorted(os.listdir("out")) == ["a1.enhanced.jpg", "a2.enhanced.jpg"]

    def test_one_failure_does_not_stop_the_others(self, still: bytes) -> None:
        self.put(still, "a.jpg", "c.jpg")
        Path("b.jpg").write_text("no picture")
        result = rtlit("enhance-image", "a.jpg", "nope.jpg", "b.jpg", "c.jpg", "--json", "--threads", 1)
        assert result.exit_code == 1
        errors = [line for line in result.stderr.splitlines() if line.startswith("rtlit: ")]
        assert errors[0] == "rtlit: nope.jpg: no such file or folder"
        assert errors[1].startswith("rtlit: b.jpg: not a whole picture of a known format")
        reports = [json.loads(line) for line in result.stdout.splitlines()]
        assert [report["input"] for report in reports] == ["nope.jpg", "a.jpg", "b.jpg", "c.jpg"]
        assert ["error" in report for report in reports] == [True, False, True, False]
        assert reports[1]["width"] == 640 and reports[1]["output"] == "a.enhanced.jpg"

    def test_results_of_the_same_name(self, still: bytes) -> None:
        self.put(still, "x/a.jpg", "y/a.jpg")
        result = rtlit("enhance-image", "x/a.jpg", "y/a.jpg", "--output-dir", "out", "-q", "--threads", 1)
        message = "rtlit: y/a.jpg: the result of x/a.jpg has the same name; give it one with -o\n"
        assert (result.exit_code, result.stderr) == (1, message)

    @pytest.mark.parametrize(
        ("args", "code", "message"),
        [
            (["nope.jpg"], 1, "rtlit: nope.jpg: no such file or folder\n"),
            (["no*.jpg"], 1, "rtlit: no*.jpg: no file matches\n"),
            (["empty"], 1, "rtlit: empty: no files to enhance in this folder (subfolders need -r)\n"),
            (["empty", "-r"], 1, "rtlit: empty: no files to enhance in this folder\n"),
            (["a.jpg", "a.jpg", "-o", "b.jpg"], 2, "-o takes the result of a single input, not of 2; use --output-dir"),
            (["a.jpg", "-o", "empty"], 2, "rtlit: -o empty is a folder; use --output-dir empty\n"),
            (["a.jpg", "-o", "a.jpg"], 1, "rtlit: a.jpg: is the input itself; give the result another name\n"),
            (["a.jpg", "-o", "a.jpg/b.jpg"], 1, "rtlit: a.jpg: can't make this folder (File exists)\n"),
            (["a.jpg", "--weights", "w"], 1, "rtlit: w: no such weights file; check --weights\n"),
            (["text.jpg", "--output-dir", "new/deep"], 1, "not a whole picture of a known format"),
        ],
    )
    def test_nothing_is_left_behind(self, args: list[str], code: int, message: str, still: bytes) -> None:
        self.put(still, "a.jpg")
        Path("text.jpg").write_text("no picture")
        Path("empty").mkdir()
        result = rtlit("enhance-image", *args)
        assert result.exit_code == code
        assert message in result.stderr and result.stderr.count("\n") == 1
        assert sorted(os.listdir()) == ["a.jpg", "empty", "text.jpg"] and not os.listdir("empty")

    def test_pipes(self, still: bytes) -> None:
        result = rtlit("enhance-image", "-", "--json", "--threads", 1, input=still)
        assert result.exit_code == 0
        assert pyvips.Image.new_from_buffer(result.stdout_bytes, "").width == 640
        words, report = result.stderr.splitlines()
        assert words.startswith("standard input → standard output: 640×360")
        assert json.loads(report)["depth"] == 8


class TestDoctor:
    def test_words(self) -> None:
        result = rtlit("doctor")
        assert result.exit_code == 0
        for words in ("\n  torch: ", "\n  libavcodec: ", "\n  chosen: ", "\n  because: ", "\n  sha256: ", "libx264"):
            assert words in result.output

    def test_json_and_bad_weights(self) -> None:
        result = rtlit("doctor", "--json", "--device", "cpu", "--weights", "nope")
        found = json.loads(result.output)
        assert result.exit_code == 1
        assert found["weights"] == {"error": "nope: no such weights file; check --weights"}
        assert found["backend"]["because"] == "asked for"
        assert found["versions"]["rtlit"] == __version__
        assert "libx264" in found["encoders"]["software"]
        assert set(found["live"]) == {"cameras", "window", "page", "virtual camera"}

    def test_cameras(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        modes = (Mode("yuyv422", 640, 480, 30), Mode("mjpeg", 1920, 1080, 30))
        found = [Camera(0, "HD Webcam", "0", modes), Camera(2, "Link", "/dev/rtlit-none", modes), Camera(3, "Old", "3")]
        monkeypatch.setattr("rtlit.live.cameras.list_cameras", lambda: found)
        assert doctors._cameras() == [
            "0 (HD Webcam, 0): 2 modes up to mjpeg 1920x1080 30",
            "2 (Link, /dev/rtlit-none): can't be opened: let your user read and write it (usermod -aG video)",
            "3 (Old, 3): no modes known",
        ]
        found.clear()
        assert str(doctors._cameras()).startswith("none found by ")

    def test_window(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
        if doctors.find_spec("sdl2") and doctors.find_spec("PIL"):
            assert re.fullmatch(r"SDL 2\.\d+\.\d+ on dummy", doctors._window())
            monkeypatch.setenv("SDL_VIDEODRIVER", "nope")
            assert re.fullmatch(r"no: SDL 2.* can't open a display \(.*nope.*\); use --web", doctors._window())
        monkeypatch.setattr(doctors, "find_spec", lambda name: None)
        assert doctors._window() == "no: needs PIL, sdl2: pip install 'rtlit[live]'"
        assert doctors._virtual_camera() == "no: needs pyvirtualcam: pip install 'rtlit[virtual-camera]'"


def _write_text(path: Path, clip: Path) -> None:
    path.write_text("this is no video\n" * 100)


def _write_empty(path: Path, clip: Path) -> None:
    path.touch()


def _write_truncated(path: Path, clip: Path) -> None:
    path.write_bytes(clip.read_bytes()[:30_000])


def _write_corrupt(path: Path, clip: Path) -> None:
    data = bytearray(clip.read_bytes())
    data[:2000] = np.random.default_rng(0).bytes(2000)
    path.write_bytes(data)


def _write_encrypted(path: Path, clip: Path) -> None:
    keys = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "1" * 32, "encryption_kid": "2" * 32}
    with av.open(str(clip)) as source, av.open(str(path), "w", format="mp4", container_options=keys) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None and packet.pts < 24 * packet.time_base.denominator:
                packet.stream = stream
                target.mux(packet)


def _write_audio(path: Path, clip: Path) -> None:
    with av.open(str(path), "w", format="mp4") as target:
        stream = target.add_stream("aac", rate=48000, layout="mono")
        for at in range(0, 48000, 1024):
            tone = np.sin(np.arange(at, at + 1024, dtype=np.float32) * 0.05)[None]
            frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 48000, at
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))


def _write_no_frames(path: Path, clip: Path) -> None:
    path.write_bytes(b"YUV4MPEG2 W640 H360 F24:1 Ip A1:1 C420jpeg\n")


def _write_small(path: Path, clip: Path) -> None:
    path.write_bytes(b"YUV4MPEG2 W14 H64 F24:1 Ip A1:1 C420jpeg\nFRAME\n" + bytes(14 * 64 * 3 // 2))


BAD_VIDEOS = {
    "text": (_write_text, "is not a video"),
    "empty": (_write_empty, "is empty (0 bytes)"),
    "truncated": (_write_truncated, "none of its 1 video packets can be decoded; it is damaged or encrypted"),
    "corrupt": (_write_corrupt, "is not a video, or is truncated or damaged beyond reading"),
    "encrypted": (_write_encrypted, "is encrypted; rtlit can't read protected video"),
    "audio": (_write_audio, "has no video stream (it holds audio)"),
    "no frames": (_write_no_frames, "frame"),
    "small": (_write_small, "14×64 is too small; each side must be at least 16 pixels"),
}


class TestEnhanceVideo:
    def test_default_name_report_and_summary(self, clip: Path) -> None:
        Path("a.mp4").symlink_to(clip)
        result = rtlit("enhance-video", "a.mp4", "--json", *QUICK)
        assert result.exit_code == 0
        report = json.loads(result.stdout)
        assert (report["input"], report["output"], report["frames"]) == ("a.mp4", "a.enhanced.mp4", 6)
        assert (report["width"], report["height"], report["warnings"]) == (1280, 720, [])
        assert result.stderr.startswith("a.mp4 → a.enhanced.mp4: 6 frames in ") and result.stderr.count("\n") == 1
        assert frames(Path("a.enhanced.mp4")) == 6
        assert sorted(os.listdir()) == ["a.enhanced.mp4", "a.mp4"]
        again = rtlit("enhance-video", "a.mp4", *QUICK)
        message = "rtlit: a.enhanced.mp4: exists; use --overwrite to replace it\n"
        assert (again.exit_code, again.stderr) == (1, message)

    def test_folder_with_a_bad_file_goes_on_and_skips(self, clip: Path) -> None:
        Path("in").mkdir()
        Path("in/a.mp4").symlink_to(clip)
        Path("in/b.mp4").write_text("no video")
        Path("in/c.mp4").symlink_to(clip)
        Path("out").mkdir()
        Path("out/c.enhanced.mp4").touch()
        result = rtlit("enhance-video", "in", "--output-dir", "out", *QUICK)
        assert result.exit_code == 1
        a, b, c = result.stderr.splitlines()
        assert a.startswith("in/a.mp4 → out/a.enhanced.mp4: 6 frames in ")
        assert b.startswith("rtlit: in/b.mp4: is not a video")
        assert c == "in/c.mp4: out/c.enhanced.mp4 exists, skipped"
        assert sorted(os.listdir("out")) == ["a.enhanced.mp4", "c.enhanced.mp4"]

    def test_compare_is_twice_as_wide_and_details_are_told(self, clip: Path) -> None:
        result = rtlit("enhance-video", clip, "-o", "b.mkv", "--compare", "-v", "--start", "0:00:09.5", *QUICK)
        assert result.exit_code == 0
        assert "  2560×720 yuv420p, h264 (software) → libx264\n" in result.stderr and "  ms a frame: " in result.stderr
        with av.open("b.mkv") as container:
            assert container.streams.video[0].width == 2560

    def test_encoder_options_reach_the_encoder(self, clip: Path) -> None:
        sizes = []
        for crf in (18, 40):
            result = rtlit("enhance-video", clip, "-o", f"{crf}.mp4", "--crf", crf, "-e", "g=3", "-q", *QUICK)
            assert (result.exit_code, result.output) == (0, "")
            sizes.append(Path(f"{crf}.mp4").stat().st_size)
            with av.open(f"{crf}.mp4") as container:
                assert sum(packet.is_keyframe for packet in container.demux(video=0)) == 2
        assert sizes[1] < sizes[0] / 3

    def test_format_names_the_suffix(self, clip: Path) -> None:
        assert rtlit("enhance-video", clip, "--output-dir", ".", "--format", "matroska", *QUICK).exit_code == 0
        assert os.listdir() == ["juggler.enhanced.mkv"]

    @pytest.mark.parametrize("kind", BAD_VIDEOS)
    def test_bad_input_is_one_line_and_leaves_nothing(self, kind: str, clip: Path) -> None:
        write, message = BAD_VIDEOS[kind]
        write(Path("bad.mp4"), clip)
        result = rtlit("enhance-video", "bad.mp4", "--threads", 1)
        assert result.exit_code == 1
        assert result.stderr.startswith("rtlit: bad.mp4: ") and result.stderr.count("\n") == 1
        assert message in result.stderr and result.stdout == ""
        assert os.listdir() == ["bad.mp4"]

    @pytest.mark.parametrize(
        ("args", "code", "message"),
        [
            (["nope.mp4"], 1, "rtlit: nope.mp4: no such file or folder\n"),
            (["empty"], 1, "rtlit: empty: no files to enhance in this folder (subfolders need -r)\n"),
            (["a.mp4", "-o", "a.mp4"], 1, "rtlit: a.mp4: is the input itself; give the result another name\n"),
            (["a.mp4", "-o", "a.mp4", "--overwrite"], 1, "rtlit: a.mp4: is the input itself; give the result another"),
            (["a.mp4", "-o", "file/b.mp4"], 1, "rtlit: file: can't make this folder (File exists)\n"),
            (["a.mp4", "--codec", "libx263"], 2, "libx263"),
            (["a.mp4", "--codec", "aac"], 2, "aac"),
            (["a.mp4", "-o", "b.xyz"], 2, "b.xyz"),
            (["a.mp4", "-e", "frobnicate=1"], 2, "frobnicate"),
            (["a.mp4", "--preset", "warp"], 2, "warp"),
            (["a.mp4", "--weights", "w", *QUICK], 1, "rtlit: w: no such weights file; check --weights\n"),
            (["a.mp4", "--start", "20"], 1, "a.mp4: "),
            (["a.mp4", "--device", "cuda"], 1, "cuda"),
        ],
    )
    def test_nothing_is_left_behind(
        self, args: list[str], code: int, message: str, clip: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        Path("a.mp4").symlink_to(clip)
        Path("file").touch()
        Path("empty").mkdir()
        size = clip.stat().st_size
        result = rtlit("enhance-video", *args)
        assert (result.exit_code, result.stdout) == (code, ""), result.stderr
        assert result.stderr.startswith("rtlit: ") and message in result.stderr and result.stderr.count("\n") == 1
        assert sorted(os.listdir()) == ["a.mp4", "empty", "file"] and not os.listdir("empty")
        assert clip.stat().st_size == size and not Path("file").stat().st_size

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_read_only_folder(self, clip: Path) -> None:
        Path("locked").mkdir(mode=0o500)
        result = rtlit("enhance-video", clip, "--output-dir", "locked", *QUICK)
        assert result.exit_code == 1 and result.stderr.count("\n") == 1 and "ermission denied" in result.stderr


class TestProcess:
    """What only a process of its own shows: pipes, signals."""

    COMMAND = (sys.executable, str(ROOT / "cli.py"), "enhance-video")

    def test_y4m_through_pipes(self) -> None:
        header = b"YUV4MPEG2 W640 H360 F24:1 Ip A1:1 C420jpeg\n"
        source = header + 3 * (b"FRAME\n" + bytes([60]) * (640 * 360) + bytes([128]) * (320 * 180 * 2))
        result = subprocess.run([*self.COMMAND, "-", "--json", "--threads", "1"], input=source, capture_output=True)
        assert result.returncode == 0, result.stderr
        assert result.stdout.startswith(b"YUV4MPEG2 W640 H360") and result.stdout.count(b"FRAME\n") == 3
        words, report = result.stderr.decode().splitlines()
        assert words.startswith("standard input → standard output: 3 frames in ")
        assert json.loads(report)["frames"] == 3

    def test_reader_of_stdout_goes_away(self, clip: Path) -> None:
        process = subprocess.Popen(
            [*self.COMMAND, str(clip), "-o", "-", "--format", "y4m", "--threads", "1"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.read(9) == b"YUV4MPEG2"
        process.stdout.close()
        message = process.stderr.read().decode()
        process.stderr.close()
        assert process.wait(60) == 1
        assert message.splitlines()[-1] == "rtlit: <stdout>: the reading end was closed"
        assert "Traceback" not in message and "Exception ignored" not in message

    @pytest.mark.skipif(os.name == "nt", reason="no pseudo-terminals")
    def test_a_terminal_gets_a_progress_bar(self, clip: Path) -> None:
        ours, theirs = os.openpty()
        command = [*self.COMMAND, str(clip), "--output-dir", ".", *QUICK]
        with subprocess.Popen(command, stderr=theirs) as process:
            os.close(theirs)
            shown = b""
            with suppress(OSError):  # how Linux says that the other end is closed
                while part := os.read(ours, 1 << 16):
                    shown += part
        os.close(ours)
        assert process.returncode == 0
        assert b"juggler.mp4" in shown and b"100%" in shown and b" fps" in shown
        assert shown.decode().splitlines()[-1].split(": ")[0].endswith("→ juggler.enhanced.mp4")

    @pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_signals_leave_nothing(self, sent: signal.Signals, code: int, clip: Path) -> None:
        Path("out").mkdir()
        arguments = [str(clip), "--output-dir", "out", "--preset", "veryslow", "--threads", "1"]
        process = subprocess.Popen([*self.COMMAND, *arguments], stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        deadline = time.monotonic() + 60
        while not os.listdir("out"):  # the temporary file
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.02)
        process.send_signal(sent)
        message = process.stderr.read()
        process.stderr.close()
        assert process.wait(60) == code, message
        assert "Traceback" not in message and os.listdir("out") == []
