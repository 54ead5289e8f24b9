"""rtlit doctor"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rtlit import __version__
from rtlit.commands.options import device_option, examples
from rtlit.errors import RtlitError

if TYPE_CHECKING:
    from rtlit.live.cameras import Camera

_PACKAGES = ("torch", "triton", "numba", "numpy", "av", "pyvips", "safetensors", "click", "rich")
_ENCODERS = {
    "software": ("libx264", "libx265", "libsvtav1", "libvpx-vp9", "libvpx", "prores_ks", "ffv1"),
    "hardware": tuple(
        f"{codec}_{maker}"
        for maker in ("nvenc", "qsv", "amf", "videotoolbox", "vaapi")
        for codec in ("h264", "hevc", "av1")
    ),
}

_NVDEC_CODECS = ("h264", "hevc", "av1", "vp9", "vp8", "mpeg2video", "mpeg4", "vc1", "mjpeg")


@click.command(
    epilog=examples(
        "rtlit doctor",
        "rtlit doctor --device cuda  why CUDA isn't taken",
        "rtlit doctor --json > doctor.json  for a bug report",
    )
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as a JSON object on stdout.")
@device_option("Which backend to ask for.")
@click.option(
    "--weights",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Weights to look at.  [default: the shipped ones]",
)
def doctor(as_json: bool, device: Any, weights: Path | None) -> None:
    """Show versions, devices and codecs, and which backend runs and why.

    Exit code 1 when enhancing would fail: no usable backend or weights.
    """
    checks: dict[str, dict[str, Any]] = {
        "versions": _versions(),
        "cpu": _cpu(),
        "cuda": _cuda(),
        "backend": _backend(device),
        "weights": _weights(weights),
        "jit cache": _cache(),
        "encoders": _encoders(),
        "NVDEC": _nvdec(),
        "NVENC": _nvenc(),
        "live": _live(),
    }
    if as_json:
        click.echo(json.dumps(checks, indent=2))
    else:
        click.echo("\n".join(_lines(checks)))
    sys.exit(1 if any("error" in checks[name] for name in ("backend", "weights")) else 0)


def _lines(values: dict[str, Any], indent: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield f"{indent}{key}"
            yield from _lines(value, indent + "  ")
        else:
            text = ", ".join(map(str, value)) or "none" if isinstance(value, list) else value
            yield f"{indent}{key}: {text}"


def _versions() -> dict[str, str]:
    found = {"rtlit": __version__, "python": platform.python_version(), "system": platform.platform()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found | _ffmpeg()


def _ffmpeg() -> dict[str, str]:
    import av

    return {name: ".".join(map(str, numbers)) for name, numbers in av.library_versions.items()}


def _cpu() -> dict[str, object]:
    import torch

    from rtlit.backends.choose import available_threads
    from rtlit.benchmark.machine import cpu_name

    return {"model": cpu_name(), "cores usable": available_threads(), "torch threads": torch.get_num_threads()}


def _cuda() -> dict[str, object]:
    import torch

    devices = [
        f"{torch.cuda.get_device_name(i)}, compute capability {'.'.join(map(str, torch.cuda.get_device_capability(i)))}"
        for i in range(torch.cuda.device_count())
    ]
    return {"torch built for": torch.version.cuda or "CPU only", "devices": devices, "kernels": _kernels()}


def _kernels() -> str:
    """Whether the Triton kernels run here, and where they lie when they are compiled."""
    import torch

    from rtlit.backends.cuda import lacking

    if not torch.cuda.is_available():
        return "not usable here: torch finds no CUDA device"
    why_not = lacking()
    if why_not is not None:
        return f"not usable here: {why_not}"
    from triton import knobs

    return f"compiled by Triton for the device, kept in {knobs.cache.dir}"


def _backend(device: Any) -> dict[str, str]:
    from rtlit.backends.choose import choose_backend

    try:
        choice = choose_backend(device)
    except RtlitError as error:
        return {"error": str(error)}
    return {"chosen": choice.backend.name, "because": choice.reason}


def _weights(path: Path | None) -> dict[str, Any]:
    import hashlib

    from rtlit import weights as shipped
    from rtlit.network import read_safetensors
    from rtlit.unet import is_torch_file, load_weights

    path = path or shipped.DEFAULT
    try:
        network = load_weights(path)
    except RtlitError as error:
        return {"error": str(error)}
    metadata = {} if is_torch_file(path) else read_safetensors(path)[0]
    about = {"file": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    return about | {"parameters": sum(p.numel() for p in network.parameters()), "metadata": metadata}


def _cache() -> dict[str, Any]:
    from rtlit.backends import cpu

    dispatchers = [value for value in vars(cpu).values() if hasattr(value, "stats") and hasattr(value, "py_func")]
    folders = {str(path) for dispatcher in dispatchers if (path := dispatcher.stats.cache_path)}
    return {"folder": ", ".join(sorted(folders)) or "none: compiled anew in every process"}


def _encoders() -> dict[str, list[str]]:
    """The encoders that this FFmpeg has; a hardware one also needs the hardware and its driver, so it is opened."""
    import av

    found = {kind: [name for name in names if name in av.codecs_available] for kind, names in _ENCODERS.items()}
    working = [name for name in found["hardware"] if _opens(name)]
    absent = [name for name in found["hardware"] if name not in working]
    return {"software": found["software"], "hardware": working, "hardware not usable here": absent}


def _nvdec() -> dict[str, Any]:
    """What PyAV was built to decode on an NVIDIA GPU, and whether the driver opens it."""
    import av
    from av.codec.hwaccel import HWDeviceType

    from rtlit.video.hardware import nvdec

    def decodes(name: str) -> bool:
        configs = av.Codec(name, "r").hardware_configs or ()
        return any(config.device_type == HWDeviceType.cuda and config.is_supported for config in configs)

    built_in = [name for name in _NVDEC_CODECS if decodes(name)]
    try:
        nvdec()
    except RtlitError as error:
        return {"built in": built_in, "usable": f"no: {error}"}
    return {"built in": built_in, "usable": "yes, as far as this GPU decodes them"}


def _nvenc() -> dict[str, Any]:
    """What PyAV was built to encode on an NVIDIA GPU, and whether the driver opens it."""
    import av

    built_in = [name for name in _ENCODERS["hardware"] if name.endswith("nvenc") and name in av.codecs_available]
    usable = [name for name in built_in if _why_not_open(name) is None]
    why_not = _why_not_open(built_in[0]) if built_in else "this PyAV was built without it"
    return {"built in": built_in, "usable": usable or f"no: {why_not}"}


def _live() -> dict[str, Any]:
    """What `rtlit webcam` finds: cameras, and whether it can show and hand on their picture."""
    return {
        "cameras": _cameras(),
        "window": _window(),
        "page": _lacking("live", "aiohttp", "PIL") or f"aiohttp {version('aiohttp')}",
        "virtual camera": _virtual_camera(),
    }


def _cameras() -> list[str] | str:
    from rtlit.live.cameras import input_format, list_cameras

    cameras = list_cameras()
    if not cameras:
        return f"none found by {input_format()}"
    return [f"{camera}: {_offers(camera)}" for camera in cameras]


def _offers(camera: Camera) -> str:
    if camera.path.startswith("/dev/") and not os.access(camera.path, os.R_OK | os.W_OK):
        return "can't be opened: let your user read and write it (usermod -aG video)"
    best = sorted(camera.modes, key=lambda mode: mode.width * mode.height, reverse=True)
    return f"{len(best)} modes up to {best[0]}" if best else "no modes known"


def _window() -> str:
    """Whether SDL opens on a display; it is closed at once."""
    missing = _lacking("live", "PIL", "sdl2")
    if missing:
        return missing
    try:
        from rtlit.live.sdl import sdl2, sdl_error
    except (ImportError, RuntimeError):  # of PySDL2 without the library
        return "no: needs the library SDL 2: pip install pysdl2-dll"
    number = sdl2.SDL_version()
    sdl2.SDL_GetVersion(number)
    about = f"SDL {number.major}.{number.minor}.{number.patch}"
    named = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"))
    if sys.platform == "linux" and not named:  # SDL's Wayland would complain on stderr
        return f"no: {about} finds no display; use --web"
    if sdl2.SDL_Init(sdl2.SDL_INIT_VIDEO):
        return f"no: {about} can't open a display ({sdl_error()}); use --web"
    driver = sdl2.SDL_GetCurrentVideoDriver().decode()
    sdl2.SDL_QuitSubSystem(sdl2.SDL_INIT_VIDEO)
    return f"{about} on {driver}"


def _virtual_camera() -> str:
    missing = _lacking("virtual-camera", "pyvirtualcam")
    if missing:
        return missing
    loopbacks = sorted(path.name for path in Path("/sys/devices/virtual/video4linux").glob("video*"))
    if sys.platform == "linux" and not loopbacks:
        return "no: load v4l2loopback (sudo modprobe v4l2loopback exclusive_caps=1 card_label=rtlit)"
    found = f" with {', '.join(loopbacks)}" if loopbacks else ""
    return f"pyvirtualcam {version('pyvirtualcam')}{found}"


def _lacking(extra: str, *modules: str) -> str | None:
    """What to install where a module is missing."""
    missing = [module for module in modules if find_spec(module) is None]
    return f"no: needs {', '.join(missing)}: pip install 'rtlit[{extra}]'" if missing else None


def _opens(name: str) -> bool:
    return _why_not_open(name) is None


@cache
def _why_not_open(name: str) -> str | None:
    from fractions import Fraction

    import av

    from rtlit.video.probe import reason

    encoder = av.Codec(name, "w").create("video")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = 640, 384, "nv12", Fraction(1, 30)
    try:
        encoder.open()
    except (av.FFmpegError, OSError, ValueError) as error:
        return reason(error)
    return None
