"""`rtlit benchmark`: the scene, what is checked before it is timed, and what is said."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from rtlit import Enhancer
from rtlit.avframe import color_of, planes_of
from rtlit.backends.cpu import CpuBackend
from rtlit.benchmark import machine as machines, measure as measures
from rtlit.benchmark.machine import Machine
from rtlit.benchmark.measure import SIZES, Speed, check, devices, measure
from rtlit.benchmark.report import line, verdict
from rtlit.benchmark.scene import Scene
from rtlit.commands import main
from rtlit.errors import DeviceError, RtlitError
from rtlit.frame import Color

SHORT = ["--size", "480p", "--seconds", "0.02", "--threads", "1", "--device", "cpu"]
MACHINE = Machine("Linux", "Some CPU", 4, 16.0, 0.1, (), {"rtlit": "0.1.0", "torch": "2.13.0"})

needs_no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="what is said where there is no GPU")


def benchmark(*args: str) -> Result:
    return CliRunner().invoke(main, ["benchmark", *args])


def speed(size: str, live: float, video: float = 60.0, device: str = "cpu") -> Speed:
    shares = {"decode": 0.1, "encode": 0.6, "enhance": 0.3}
    return Speed(size, *SIZES[size], device, "numba", 2 * live, live, video, shares, "libx264", "software", 512.0)


class TestScene:
    @pytest.mark.parametrize("size", [(854, 480), (1280, 720), (130, 98)])
    def test_frames(self, size: tuple[int, int]) -> None:
        scene = Scene(*size)
        frames = [scene.frame(index) for index in range(3)]
        assert {(frame.width, frame.height, frame.format.name) for frame in frames} == {(*size, "yuv420p")}
        assert color_of(frames[0]) == Color("bt709", False)
        assert [frame.time for frame in frames] == pytest.approx([0, 1 / 30, 2 / 30])
        assert [plane.shape for plane in planes_of(frames[0])[1:]] == [(size[1] // 2, size[0] // 2)] * 2

    def test_is_backlit_and_moves_with_noise(self) -> None:
        first, second = (planes_of(Scene(640, 360).frame(index))[0].astype(float) for index in (0, 1))
        window, shade = first[40:240, 200:460], first[:, :150]
        assert window.mean() > 1.8 * shade.mean()
        at_rest, along_the_pan = np.abs(first - second).mean(), np.abs(first[1:, 2:] - second[:-1, :-2]).mean()
        assert 1 < along_the_pan < at_rest  # what is left is the noise

    def test_is_the_same_every_time_and_never_runs_out(self) -> None:
        one, other = Scene(160, 96), Scene(160, 96)
        for index in (0, 31, 32, 63, 64, 299):
            pairs = zip(planes_of(one.frame(index)), planes_of(other.frame(index)), strict=True)
            assert all(np.array_equal(a, b) for a, b in pairs)


class TestMeasuring:
    def test_a_right_result_passes_and_a_wrong_one_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        enhancer, frame = Enhancer("cpu", threads=1), Scene(320, 180).frame(0)
        check(enhancer, frame, 1)
        change = planes_of(enhancer(frame))[0].astype(int) - planes_of(frame)[0]
        assert change.mean() > 10  # a scene that needs no light would show nothing
        apply = CpuBackend.apply

        def wrong(self, planes, gain, pixel_format, color, out, filtered=None) -> None:  # type: ignore[no-untyped-def]
            apply(self, planes, gain, pixel_format, color, out, filtered)
            out[2][5, 7] ^= 4

        monkeypatch.setattr(CpuBackend, "apply", wrong)
        message = r"numba on 1 CPU thread: a frame of 320×180 is \d codes from the reference; nothing was timed"
        with pytest.raises(RtlitError, match=message):
            check(enhancer, frame, 1)
        result = benchmark(*SHORT)
        assert result.exit_code == 1 and "codes from the reference" in result.stderr.splitlines()[-1]
        assert result.stdout == ""

    def test_rate_counts_calls_after_warming_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now, seen = [0.0], []

        def work(index: int) -> None:
            seen.append(index)
            now[0] += 10.0 if index < 3 else 0.25

        monkeypatch.setattr(measures.time, "perf_counter", lambda: now[0])
        assert measures._rate(work, 2.0) == 4.0
        assert seen == list(range(11))

    def test_camera_frames_are_jpeg_of_full_range(self) -> None:
        scene = Scene(640, 360)
        frames = [scene.frame(index) for index in range(2)]
        packets = measures._mjpeg(frames)
        assert len(packets) == 2 and all(bytes(packet)[:2] == b"\xff\xd8" for packet in packets)
        (decoded,) = av.CodecContext.create("mjpeg", "r").decode(packets[0])
        assert (decoded.width, decoded.height, decoded.format.name) == (640, 360, "yuvj422p")
        luma = decoded.reformat(format="yuv420p", dst_color_range="MPEG")
        assert np.abs(planes_of(luma)[0].astype(int) - planes_of(frames[0])[0]).mean() < 3

    def test_interruption_leaves_no_files(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(measures.tempfile, "tempdir", str(tmp_path))

        def interrupt(words: str) -> None:
            if "checking" in words:
                assert list(tmp_path.glob("*/480p.mp4"))
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            list(measure(["480p"], "cpu", 0.01, threads=1, on_step=interrupt))
        assert list(tmp_path.iterdir()) == []

    @needs_no_cuda
    def test_devices(self) -> None:
        assert devices("auto") == devices("cpu") == ["cpu"]
        with pytest.raises(DeviceError, match="device cuda: torch"):
            devices("cuda")
        result = benchmark("--device", "cuda", "-q")
        assert result.exit_code == 1 and result.output.startswith("rtlit: device cuda: torch")


class TestCommand:
    def test_json(self) -> None:
        result = benchmark(*SHORT, "--json", "-q")
        assert result.exit_code == 0 and result.stderr == ""
        told = json.loads(result.stdout)
        (row,) = told["results"]
        assert (row["width"], row["height"], row["device"], row["encoder"]) == (854, 480, "cpu", "libx264")
        assert min(row["enhance_fps"], row["live_fps"], row["video_fps"]) > 0
        assert set(row["shares"]) == {"decode", "enhance", "encode"}
        assert sum(row["shares"].values()) == pytest.approx(1, abs=0.01) and row["limit"] in row["shares"]
        assert row["peak_rss_mb"] > 50
        assert told["machine"]["versions"]["torch"] == torch.__version__
        assert "\n" not in told["line"] and told["line"].startswith("rtlit ")

    def test_plain_table_and_another_encoder(self) -> None:
        result = benchmark(*SHORT, "--size", "720p", "--codec", "mpeg4", "-q")
        lines = result.stdout.splitlines()
        assert result.exit_code == 0, result.output
        rows = [text.split() for text in lines if text.split()[:2] in (["480p", "CPU"], ["720p", "CPU"])]
        assert [row[0] for row in rows] == ["480p", "720p"] and all(len(row) == 8 for row in rows)
        assert "─" not in result.stdout and "\x1b" not in result.stdout
        assert lines[-2] == "For a bug report:" and "(mpeg4; " in lines[-1]

    def test_terminals_get_a_ruled_table(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setattr("rtlit.benchmark.measure.measure", lambda *args, **kwargs: iter([speed("1080p", 50)]))
        assert "───" in benchmark("-q").stdout

    def test_a_busy_machine_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("rtlit.benchmark.measure.measure", lambda *args, **kwargs: iter([speed("1080p", 50)]))
        monkeypatch.setattr(machines, "_load", lambda: 99.0)
        assert benchmark().stderr == "warning: other programs are at work (load 99.0); the figures will be low\n"
        assert benchmark("-q").stderr == ""

    def test_quick_and_sizes_choose_what_is_measured(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = []

        def fake(sizes, device, seconds, **rest):  # type: ignore[no-untyped-def]
            asked.append((sizes, seconds))
            return iter([speed("720p", 50)])

        monkeypatch.setattr("rtlit.benchmark.measure.measure", fake)
        for args in ([], ["--quick"], ["--size", "4K", "--size", "480p", "--seconds", "3"]):
            assert benchmark("-q", *args).exit_code == 0
        assert asked == [(list(SIZES), 2.0), (["720p", "1080p"], 0.5), (["480p", "4K"], 3.0)]

    def test_wrong_usage(self) -> None:
        for args, words in (
            (["--seconds", "0"], "0.0 is not in the range 0<x<=60"),
            (["--size", "8K"], "'8K' is not one of '480p', '720p', '1080p', '4K'"),
        ):
            result = benchmark(*args)
            assert result.exit_code == 2 and words in result.stderr and result.stderr.count("\n") == 1
        result = benchmark(*SHORT, "-q", "--codec", "nope")
        assert result.exit_code in (1, 2) and "nope" in result.stderr and result.stderr.count("\n") == 1


class TestWords:
    def test_verdict(self) -> None:
        speeds = [speed("720p", 90, 60), speed("1080p", 50, 30), speed("4K", 11, 7.5)]
        assert verdict(speeds) == (
            "1080p30 live on CPU: yes, with 40% of the time to spare; 4K30 no (11 fps). "
            "A minute of 30 fps video takes: 4K 4.0 min, 1080p 1.0 min, 720p 30 s."
        )

    def test_verdict_takes_the_fastest_device(self) -> None:
        speeds = [speed("4K", 11, 7.5), speed("4K", 120, 60, "cuda")]
        words = "4K30 live on CUDA: yes, with 75% of the time to spare. A minute of 30 fps video takes: 4K 30 s."
        assert verdict(speeds) == words

    def test_verdict_on_a_slow_machine(self) -> None:
        assert verdict([speed("480p", 29.9), speed("720p", 12)]).startswith("live: 720p30 no (12 fps), 480p30 no (29.9")

    def test_line(self) -> None:
        assert line(MACHINE, [speed("720p", 90), speed("720p", 400, 240, "cuda")]) == (
            "rtlit 0.1.0, torch 2.13.0; Linux; Some CPU, 4 cores, 16 GiB, load 0.1; no GPU; fps enhance/live/video: "
            "CPU 720p 180/90/60 (libx264; decode 10%, encode 60%, enhance 30%); "
            "CUDA 720p 800/400/240 (libx264; decode 10%, encode 60%, enhance 30%); peak 512 MB"
        )

    def test_machine(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert MACHINE.busy is False and Machine("", "", 4, 0, None, (), {}).busy is False
        assert Machine("", "", 4, 0, 1.5, (), {}).busy is True
        board, info = tmp_path / "model", tmp_path / "cpuinfo"
        board.write_bytes(b"Raspberry Pi 5 Model B Rev 1.0\0")
        info.write_text("processor\t: 0\nBogoMIPS\t: 108.00\n")
        monkeypatch.setattr(machines, "_BOARD", board)
        monkeypatch.setattr(machines, "_CPUINFO", info)
        assert machines.cpu_name() == "Raspberry Pi 5 Model B Rev 1.0"
        info.write_text("processor\t: 0\nmodel name\t: Some CPU @ 2.4GHz\n")
        assert machines.cpu_name() == "Some CPU @ 2.4GHz"
