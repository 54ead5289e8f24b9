"""Decoding on the GPU and frames that stay there: what can be shown without a driver.

Frames in a GPU's memory are played by frames in the computer's, which PyAV shows as tensors in the same way.
"""

from __future__ import annotations

import json
import sys
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from click.testing import CliRunner

if find_spec("triton") is None and sys.platform != "linux":
    pytest.skip(f"no triton for {sys.platform}", allow_module_level=True)

from tests.test_cuda_engine import DEVICE, FakeBackend, quick  # noqa: F401  before triton

# isort: split
from rtlit.avframe import frame_of, planes_of, software_format, tensors_of
from rtlit.backends.choose import BackendChoice
from rtlit.commands import main
from rtlit.enhancer import Enhancer
from rtlit.errors import DeviceError, UsageError
from rtlit.video import hardware
from rtlit.video.formats import EncoderPlan, plan_encoder
from rtlit.video.settings import VideoSettings
from rtlit.video.stage import Layout, Stage
from rtlit.video.transcode import enhance_video
from tests.video_tools import dim_frame, make_clip, packets, pictures, shown

NO_DRIVER = "the NVIDIA driver doesn't open NVDEC"


def driver() -> bool:
    try:
        hardware.nvdec()
    except DeviceError:
        return False
    return True


without_driver = pytest.mark.skipif(driver(), reason="has an NVIDIA driver")


@pytest.fixture
def on_engine(monkeypatch: pytest.MonkeyPatch, quick: None) -> None:  # noqa: F811
    """Every enhancer runs on the engine, on the device that tests have."""
    monkeypatch.setattr("rtlit.enhancer.choose_backend", lambda *_: BackendChoice(FakeBackend(), "for tests"))


@pytest.fixture
def clip_with_sound(tmp_path: Path) -> Path:
    return make_clip(tmp_path / "in.mkv", range(6), codec="ffv1", sound=True)


# Without a driver.


def test_ffmpeg_works_in_the_context_that_torch_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """It refuses the primary one where torch was there first; and a pointer of another is none in torch's."""
    given: list[Any] = []

    class Recorder:
        def __init__(self, *arguments: Any, **options: Any) -> None:
            given.append((arguments, options))

        def create(self, codec: Any) -> None:
            given.append(codec.name)

    zeros = torch.zeros
    monkeypatch.setattr("av.codec.hwaccel.HWAccel", Recorder)
    monkeypatch.setattr("av.codec.hwaccel.hwdevices_available", lambda: ["cuda"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch, "zeros", lambda *shape, device: given.append(device) or zeros(*shape))
    hardware.nvdec()
    options = {"primary_ctx": "0", "current_ctx": "1"}
    assert given == [
        "cuda",
        (("cuda", "1"), {"allow_software_fallback": True, "options": options, "is_hw_owned": True}),
        "h264",
    ]

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: all devices are busy\nmore")

    monkeypatch.setattr(torch, "zeros", fail)
    with pytest.raises(DeviceError, match=r"^the GPU gave up \(CUDA error: all devices are busy\)$"):
        hardware.nvdec()


@without_driver
def test_asking_for_nvdec_without_a_driver_is_one_line(clip_with_sound: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.mkv"
    result = CliRunner().invoke(main, ["enhance-video", str(clip_with_sound), "-o", str(target), "--hwaccel", "cuda"])
    assert result.exit_code == 1 and not target.exists()
    assert result.stderr.startswith(f"rtlit: --hwaccel cuda: {NO_DRIVER} (")
    assert result.stderr.endswith("); --hwaccel none decodes in software\n") and result.stderr.count("\n") == 1


@pytest.mark.parametrize("hwaccel", ["auto", "none"])
def test_the_cpu_decodes_in_software_and_says_nothing(clip_with_sound: Path, tmp_path: Path, hwaccel: Any) -> None:
    report = enhance_video(
        clip_with_sound, tmp_path / "out.mkv", device="cpu", threads=1, video=VideoSettings(hwaccel=hwaccel)
    )
    assert report.decoder == "software" and report.warnings == []


@without_driver
def test_auto_says_why_it_decodes_in_software_beside_a_gpu(
    clip_with_sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "_enhances_on_gpu", lambda device: True)
    report = enhance_video(clip_with_sound, tmp_path / "out.mkv", device="cpu", threads=1)
    assert [line[: len(NO_DRIVER) + 21] for line in report.warnings] == [f"decoded in software: {NO_DRIVER}"]
    assert report.frames == 6


@pytest.mark.parametrize(("name", "value"), [("from_dlpack", "pip install 'av>=18'"), ("hwdevices", "without NVDEC")])
def test_a_pyav_that_can_not_is_said(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    if name == "from_dlpack":
        monkeypatch.setattr(av, "VideoFrame", object)
    else:
        monkeypatch.setattr("av.codec.hwaccel.hwdevices_available", list)
    with pytest.raises(DeviceError, match=value):
        hardware.nvdec()


def test_what_nvdec_does_not_take_is_said() -> None:
    lines: list[str] = []
    frame = av.VideoFrame(64, 48, "yuv422p")
    with pytest.raises(DeviceError, match="--hwaccel cuda: NVDEC here doesn't take prores yuv422p; --hwaccel auto"):
        hardware.check_decoder(VideoSettings(hwaccel="cuda"), frame, "prores", lines.append)
    assert not hardware.check_decoder(VideoSettings(), frame, "prores", lines.append)
    assert lines == ["decoded in software: NVDEC here doesn't take prores yuv422p"]


def test_settings_name_what_there_is() -> None:
    with pytest.raises(UsageError, match="^hwaccel must be one of auto, none, cuda, not 'gpu'$"):
        VideoSettings(hwaccel="gpu")  # type: ignore[arg-type]


@without_driver
def test_doctor_shows_the_video_units() -> None:
    found = json.loads(CliRunner().invoke(main, ["doctor", "--json", "--device", "cpu"]).output)
    assert {"h264", "hevc", "av1", "vp9"} <= set(found["NVDEC"]["built in"])
    assert found["NVDEC"]["usable"].startswith(f"no: {NO_DRIVER}")
    assert found["NVENC"]["built in"] == ["h264_nvenc", "hevc_nvenc", "av1_nvenc"]
    assert found["NVENC"]["usable"].startswith("no: ")
    if not torch.cuda.is_available():
        assert found["cuda"]["kernels"] == "not usable here: torch finds no CUDA device"


# NVENC's settings.


def plan(codec: str, name: str, **video: Any) -> EncoderPlan:
    return plan_encoder("h264", av.VideoFormat(name, 64, 48), (64, 48), "mp4", VideoSettings(codec=codec, **video))


def test_nvenc_is_asked_for_quality_not_for_two_megabits() -> None:
    assert plan("h264_nvenc", "yuv420p").options == {"rc": "vbr", "cq": "19", "b": "0", "preset": "p4"}
    assert plan("hevc_nvenc", "yuv420p10le", crf=25, preset="p7").options["cq"] == "25"
    assert plan("av1_nvenc", "yuv420p", options=(("b", "8M"),)).options == {"b": "8M", "preset": "p4"}
    assert plan("h264_nvenc", "yuv420p", options=(("cq", "30"),)).options["b"] == "0"


# Frames that play those in a GPU's memory.


@pytest.mark.parametrize("name", ["nv12", "p010le"])
def test_tensors_share_a_frames_memory_and_become_one(name: str) -> None:
    frame = dim_frame(3, 64, 48, "yuv420p10le").reformat(format=name)
    frame.pts, frame.color_trc = 7, 16
    luma, chroma = tensors_of(frame)
    assert luma.shape == (48, 64) and chroma.shape == (24, 64)
    chroma[0, 0] = 77
    assert np.frombuffer(memoryview(frame.planes[1]), chroma.numpy().dtype)[0] == 77
    back = frame_of((luma.clone(), chroma.clone()), name, frame, None)
    assert [bytes(plane) for plane in back.planes] == [bytes(plane) for plane in frame.planes]
    assert (back.pts, back.time_base, back.color_trc) == (7, frame.time_base, 16)


def staged(monkeypatch: pytest.MonkeyPatch, name: str, plan: EncoderPlan, count: int = 3) -> list[av.VideoFrame]:
    """A stage's results for `count` frames that it takes for a GPU's."""
    monkeypatch.setattr("rtlit.video.stage.stays_on_device", lambda frame: True)
    monkeypatch.setattr(
        "rtlit.video.stage.tensors_of", lambda frame: tuple(plane.to(DEVICE) for plane in tensors_of(frame))
    )
    source = []
    for index in range(count):
        source.append(dim_frame(index, 64, 48, plan.work_format).reformat(format=name))
        source[-1].pts, source[-1].time_base = index, Fraction(1, 25)
    stage = Stage(Enhancer("cuda", denoise=0.0), plan, Layout(source[0], False), lambda line: None)
    return list(stage.items(source))  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "planar"), [("nv12", "yuv420p"), ("p010le", "yuv420p10le")])
def test_a_gpus_frames_come_down_for_a_software_encoder(
    monkeypatch: pytest.MonkeyPatch, on_engine: None, name: str, planar: str
) -> None:
    results = staged(monkeypatch, name, EncoderPlan("libx264", planar, planar, {}))
    monkeypatch.undo()
    cpu = Enhancer("cpu", threads=1, estimate_every=1)
    for index, result in enumerate(results):
        assert result.format.name == planar and result.pts == index
        frame = dim_frame(index, 64, 48, planar)
        frame.pts, frame.time_base = index, Fraction(1, 25)
        for got, want in zip(planes_of(result), planes_of(cpu(frame)), strict=True):
            # The shipped network's estimates in 16-bit floats.
            assert np.abs(got.astype(int) - want).max() <= (2 if name == "nv12" else 6)


@pytest.mark.parametrize("name", ["nv12", "p010le"])
@pytest.mark.skipif(DEVICE.type == "cuda", reason="frames of tensors on the GPU need its driver in PyAV, too")
def test_a_gpus_frames_stay_for_nvenc(monkeypatch: pytest.MonkeyPatch, on_engine: None, name: str) -> None:
    planar = "yuv420p" if name == "nv12" else "yuv420p10le"
    stay = staged(monkeypatch, name, EncoderPlan("hevc_nvenc", planar, name, {}, on_device=True))
    down = staged(monkeypatch, name, EncoderPlan("libx265", planar, planar, {}))
    for kept, result in zip(stay, down, strict=True):
        assert kept.format.name == name and kept.pts == result.pts
        assert np.array_equal(kept.reformat(format=planar).to_ndarray(), result.to_ndarray())


def test_which_frames_can_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    nv12 = dim_frame(0, 64, 48, "yuv420p").reformat(format="nv12")
    assert not hardware.stays_on_device(nv12)  # it is in the computer's memory
    assert software_format(nv12).name == "nv12"
    plain = plan("hevc_nvenc", "yuv420p")
    assert hardware.plan_on_device(plain, nv12) == plain

    class OnDevice:
        """A frame of 4:2:0 in a GPU's memory, as far as is looked at."""

        format, interlaced_frame, side_data = av.VideoFormat("cuda"), False, ()

        def __init__(self, name: str, width: int = 64) -> None:
            self.sw_format, self.width, self.height = av.VideoFormat(name, width, 48), width, 48

    def staying(name: str, width: int = 64) -> bool:
        return hardware.stays_on_device(OnDevice(name, width))  # type: ignore[arg-type]

    assert [staying("nv12"), staying("p010le"), staying("yuv444p"), staying("nv12", 63)] == [True, True, False, False]
    kept = hardware.plan_on_device(plain, OnDevice("nv12"))  # type: ignore[arg-type]
    assert kept.on_device and kept.pixel_format == "nv12" and kept.work_format == "yuv420p"
    software = plan("libx264", "yuv420p")
    assert hardware.plan_on_device(software, OnDevice("nv12")) == software  # type: ignore[arg-type]
    ten_bit = plan("hevc_nvenc", "yuv420p", ten_bit=True)
    assert hardware.plan_on_device(ten_bit, OnDevice("nv12")) == ten_bit  # type: ignore[arg-type]
    OnDevice.interlaced_frame = True
    assert not staying("nv12")


# A whole video through the engine, several frames under way.


@pytest.mark.parametrize("compare", [False, True])
def test_a_video_keeps_its_order_with_frames_under_way(
    clip_with_sound: Path, tmp_path: Path, on_engine: None, monkeypatch: pytest.MonkeyPatch, compare: bool
) -> None:
    video = VideoSettings(codec="ffv1", compare=compare)
    report = enhance_video(clip_with_sound, tmp_path / "engine.mkv", video=video)
    monkeypatch.undo()
    settings = {"device": "cpu", "threads": 1, "estimate_every": 1}
    enhance_video(clip_with_sound, tmp_path / "cpu.mkv", video=video, **settings)  # type: ignore[arg-type]
    assert report.backend == "kernels" and set(report.stage_ms) == {"decode", "upload", "compute", "download", "encode"}
    assert shown(tmp_path / "engine.mkv") == shown(clip_with_sound)
    assert packets(tmp_path / "engine.mkv", "audio") == packets(clip_with_sound, "audio")
    result, wanted = pictures(tmp_path / "engine.mkv"), pictures(tmp_path / "cpu.mkv")
    assert len(result) == len(wanted) == 6
    for got, want in zip(result, wanted, strict=True):
        assert max(np.abs(a.astype(int) - b).max() for a, b in zip(got, want, strict=True)) <= 2
