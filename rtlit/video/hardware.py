"""The GPU's video units: decoding with NVDEC, encoding with NVENC, and frames that stay in the GPU's memory between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from rtlit.errors import DeviceError
from rtlit.settings import Device
from rtlit.video.settings import VideoSettings

if TYPE_CHECKING:
    import av
    from av.codec.hwaccel import HWAccel

    from rtlit.video.formats import EncoderPlan

# What PyAV hands over as DLPack tensors; all 4:2:0.
ON_DEVICE = ("nv12", "p010le", "p016le")
_SIDE_DATA_WITH_FRAMES = ("A53_CC",)  # captions, which PyAV can't set on a frame made from tensors


def nvdec() -> HWAccel:
    """What PyAV decodes with on the GPU; frames stay in its memory.

    Raises:
        DeviceError: this PyAV or the driver can't; one line that says why.
    """
    import av
    from av.codec.hwaccel import HWAccel, hwdevices_available

    from rtlit.video.probe import reason

    if not hasattr(av.VideoFrame, "from_dlpack"):
        raise DeviceError(f"PyAV {av.__version__} hands on no GPU frames; pip install 'av>=18'")
    if "cuda" not in hwdevices_available():
        raise DeviceError(f"PyAV {av.__version__} was built without NVDEC; take the wheel from PyPI")
    device, options = _context_of_torch()
    wanted = HWAccel("cuda", device, allow_software_fallback=True, options=options, is_hw_owned=True)
    try:
        # Opens the driver by itself: a pipe that failed half way into av.open could not be read again.
        wanted.create(av.Codec("h264", "r"))
    except (av.error.FFmpegError, OSError, NotImplementedError) as error:
        raise DeviceError(f"the NVIDIA driver doesn't open NVDEC ({reason(error)})") from None
    return wanted


def _context_of_torch() -> tuple[str | None, dict[str, object]]:
    """The device and the options by which FFmpeg works in torch's CUDA context, if there is one.

    A pointer of one context is none in another. FFmpeg's own way to share, the device's primary context, is refused
    (ENOTSUP) where torch was there first, with other flags than FFmpeg's; the thread's current one is taken as it is.
    """
    import torch

    if not torch.cuda.is_available():
        return None, {}
    try:
        torch.zeros(1, device="cuda")  # makes torch's context this thread's
    except RuntimeError as error:
        raise DeviceError(f"the GPU gave up ({str(error).partition(chr(10))[0]})") from None
    return str(torch.cuda.current_device()), {"primary_ctx": "0", "current_ctx": "1"}


def choose_decoder(video: VideoSettings, device: Device, warn: Callable[[str], None]) -> HWAccel | None:
    """NVDEC where it is asked for, or, on "auto", where frames are enhanced on the GPU; None decodes in software.

    Args:
        warn: called with a line where "auto" would have taken it and can't.

    Raises:
        DeviceError: it is asked for and can't be had.
    """
    if video.hwaccel == "none" or video.hwaccel == "auto" and not _enhances_on_gpu(device):
        return None
    try:
        return nvdec()
    except DeviceError as error:
        if video.hwaccel == "cuda":
            raise DeviceError(f"--hwaccel cuda: {error}; --hwaccel none decodes in software") from None
        warn(f"decoded in software: {error}")
        return None


def _enhances_on_gpu(device: Device) -> bool:
    if device == "cpu":
        return False
    import torch

    if not torch.cuda.is_available():
        return False
    from rtlit.backends.cuda import lacking

    return lacking() is None


def check_decoder(video: VideoSettings, first: av.VideoFrame, codec: str, warn: Callable[[str], None]) -> bool:
    """Whether NVDEC, which was taken, made the first frame; says so where it didn't.

    Raises:
        DeviceError: NVDEC was asked for, and doesn't decode this.
    """
    if first.format.name == "cuda":
        return True
    what = f"NVDEC here doesn't take {codec} {first.format.name}"
    if video.hwaccel == "cuda":
        raise DeviceError(f"--hwaccel cuda: {what}; --hwaccel auto decodes it in software")
    warn(f"decoded in software: {what}")
    return False


def stays_on_device(frame: av.VideoFrame) -> bool:
    """Whether a frame in the GPU's memory can be enhanced there: it is one that tensors can show, whole."""
    from rtlit.video.probe import side_data

    stored = getattr(frame, "sw_format", None)
    if frame.format.name != "cuda" or stored is None or stored.name not in ON_DEVICE:
        return False
    # PyAV's tensors leave out the last row and column of chroma at odd sizes.
    whole = frame.width % 2 == 0 and frame.height % 2 == 0
    return whole and not frame.interlaced_frame and not any(kind in side_data(frame) for kind in _SIDE_DATA_WITH_FRAMES)


def plan_on_device(plan: EncoderPlan, first: av.VideoFrame) -> EncoderPlan:
    """The plan with enhanced frames handed to NVENC where they lie, if it is NVENC's and they have its format."""
    import av

    stored = getattr(first, "sw_format", None)
    takes = [f.name for f in av.Codec(plan.name, "w").video_formats or ()]
    if "cuda" not in takes or stored is None or not stays_on_device(first) or stored.name not in takes:
        return plan
    from rtlit.avframe import planar_name

    if planar_name(stored) != plan.work_format:
        return plan  # --ten-bit
    return replace(plan, pixel_format=stored.name, on_device=True)
