"""rtlit webcam, as a user calls it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import av
import pytest

from rtlit.commands import main
from rtlit.live import cameras, source
from rtlit.live.pipeline import LivePipeline
from rtlit.live.preferences import Preferences

CLIP = Path(__file__).parent.parent / "examples" / "juggler.mp4"
MOVING = "lavfi:testsrc2=size=320x240:rate=30"


def webcam(tmp_path: Path, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "rtlit", "webcam", "--threads", "1", *arguments],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def environment(tmp_path: Path) -> dict[str, str]:
    return os.environ | {"XDG_CONFIG_HOME": str(tmp_path / "config"), "SDL_VIDEODRIVER": "dummy"}


def test_a_window_shows_it_for_as_long_as_asked(tmp_path: Path) -> None:
    pytest.importorskip("sdl2")
    done = webcam(tmp_path, "--source", MOVING, "--duration", "2")
    assert re.search(r"320×240.*; enhanced on ", done.stderr)
    captured, shown, _ = map(int, re.findall(r"(\d+) (?:frames captured|shown|dropped)", done.stderr))
    assert captured > 5 and 0 < shown <= captured


def test_settings_of_last_time_and_options_before_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[float, float, bool]] = []

    def look(pipeline: LivePipeline, preferences: Preferences, **_: object) -> None:
        seen.append((pipeline.strength, pipeline.smoothing, preferences.mirror))

    monkeypatch.setattr("rtlit.live.window.run_window", look)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    Preferences(strength=1.4, smoothing=0.2, mirror_other=True).save()
    for arguments in ([], ["--strength", "0.7", "--no-mirror"], ["--smoothing", "1"]):
        with pytest.raises(SystemExit) as ended:
            main(["webcam", "--source", MOVING, "--threads", "1", *arguments])
        assert not ended.value.code
    assert seen == [(1.4, 0.2, True), (0.7, 0.2, False), (1.4, 1.0, True)]


def test_a_recording_without_a_window(tmp_path: Path) -> None:
    done = webcam(tmp_path, "--source", str(CLIP), "--no-window", "--record", "talk.mp4", "--duration", "2")
    assert "talk.mp4: recorded" in done.stderr
    with av.open(str(tmp_path / "talk.mp4")) as container:
        frames = list(container.decode(video=0))
    assert len(frames) > 3 and (frames[0].width, frames[0].height) == (1280, 720)
    assert float(frames[-1].pts * frames[-1].time_base) > 0.5
    done = webcam(tmp_path, "--source", str(CLIP), "--no-window", "--record", "talk.mp4", code=1)
    assert "talk.mp4" in done.stderr and "overwriting" in done.stderr


def test_the_end_of_a_file_ends_it(tmp_path: Path) -> None:
    cut = "lavfi:testsrc2=size=64x48:rate=30:duration=0.5"
    done = webcam(tmp_path, "--source", cut, "--no-window", "--record", "r.mkv", "--quiet")
    assert done.stderr == "" and (tmp_path / "r.mkv").stat().st_size > 0


@pytest.mark.skipif(os.name == "nt", reason="no SIGTERM")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_page_until_it_is_ended(tmp_path: Path, number: signal.Signals) -> None:
    pytest.importorskip("aiohttp")
    with subprocess.Popen(
        [sys.executable, "-m", "rtlit", "webcam", "--source", MOVING, "--web", "--port", "0", "--record", "r.mp4"],
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout
            url = process.stdout.readline().removeprefix("open ").strip()
            assert url.startswith("http://127.0.0.1:")
            with urllib.request.urlopen(url, timeout=60) as page:
                assert b"rtlit" in page.read()
            with pytest.raises(urllib.error.HTTPError):
                urllib.request.urlopen(url.replace(url.split("/")[3], "guessed"), timeout=60)
            until(lambda: (tmp_path / "r.mp4.partial").exists())
            process.send_signal(number)
            _, said = process.communicate(timeout=60)
            assert process.returncode == 0 and "Traceback" not in said and "r.mp4: recorded" in said, said
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--no-window"], "--record"),
        (["--no-window", "--web", "--record", "x.mp4"], "one of them"),
        (["--port", "80"], "--web"),
        (["--virtual-device", "/dev/video9"], "--virtual-camera"),
        (["--web", "--full-screen"], "window"),
        (["--web", "--microphone", "default"], "--record"),
        (["--size", "720p"], "1280x720"),
        (["--camera", "0", "--source", "x.mp4"], "one of them"),
        (["--record", "x.gif", "--source", MOVING, "--no-window"], ".mp4"),
        (["--strength", "3"], "3"),
    ],
)
def test_wrong_usage_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    code, lines = here(tmp_path, monkeypatch, capsys, *arguments)
    assert code == 2 and says in lines[-1]


def test_what_is_not_there_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"\0" * 5000)
    for arguments in (["--source", "nothing.mp4"], ["--source", "broken.mp4", "--web", "--port", "0"]):
        code, lines = here(tmp_path, monkeypatch, capsys, *arguments)
        assert code == 1 and len(lines) == 1 and arguments[1] in lines[0]
    monkeypatch.setattr(cameras, "list_cameras", list)
    monkeypatch.setattr(source, "list_cameras", list)
    for arguments in ([], ["--list-cameras"]):
        code, lines = here(tmp_path, monkeypatch, capsys, *arguments)
        assert code == 1 and len(lines) == 1 and "--source FILE" in lines[0]


def here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, list[str]]:
    """Exit code and what was said, of a call in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        main(["webcam", "--threads", "1", *arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code, capsys.readouterr().err.splitlines()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 100
    while not condition():
        assert time.monotonic() < deadline, "never came"
        time.sleep(0.05)
