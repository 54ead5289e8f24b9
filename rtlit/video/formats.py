"""Which muxer, encoder and pixel format hold a video, and the encoder's default quality and speed."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rtlit.errors import OutputError, UsageError
from rtlit.frame import Color
from rtlit.video.pixels import has_alpha, opaque, opaque_format, ranked
from rtlit.video.settings import VideoSettings

if TYPE_CHECKING:
    from av import VideoFormat

MP4_FAMILY = ("mp4", "mov", "3gp")
_MUXERS = {
    **dict.fromkeys((".mp4", ".m4v"), "mp4"),
    **dict.fromkeys((".mov", ".qt"), "mov"),
    **dict.fromkeys((".ts", ".m2ts", ".mts", ".m2t"), "mpegts"),
    **dict.fromkeys((".mpg", ".mpeg", ".vob"), "vob"),
    ".mkv": "matroska",
    ".webm": "webm",
    ".avi": "avi",
    ".flv": "flv",
    ".3gp": "3gp",
    ".nut": "nut",
    ".y4m": "yuv4mpegpipe",
}
_ENCODERS = {
    "h264": "libx264",
    "hevc": "libx265",
    "av1": "libsvtav1",
    "libdav1d": "libsvtav1",
    "vp9": "libvpx-vp9",
    "vp8": "libvpx",
    "prores": "prores_ks",
}
# Input codecs that no one should be given back: their encoders are too coarse, or hold 256 colours.
_NOT_KEPT = {
    "gif", "wmv1", "wmv2", "msmpeg4v1", "msmpeg4v2", "msmpeg4v3", "msmpeg4", "flv", "h263", "cinepak", "webp", "amv",
    "cljr", "snow", "speedhq", "svq1",
}  # fmt: skip

# What keeps transparency where the input's own codec can't be written, what players know first.
_ALPHA_ENCODERS = {
    "mov": ("prores_ks", "qtrle", "png"),
    "matroska": ("libvpx-vp9", "ffv1"),
    "webm": ("libvpx-vp9", "libvpx"),
    "avi": ("utvideo", "ffv1", "png"),
    "nut": ("ffv1",),
}
# Where the usual encoders would make what hardly a player takes from the container. FLV got HEVC, AV1 and VP9 in 2023:
# FFmpeg before version 6.1 finds something else in them.
_USUAL = {"avi": ("libx264", "ffv1"), "flv": ("libx264",), "vob": ("mpeg2video", "libx264")}
_TOO_NEW = {"flv": ("hevc", "av1", "libdav1d", "vp9", "vp8")}
# What keeps every bit of a lossless input where its own codec can't be written.
_LOSSLESS_ENCODERS = {"mov": ("qtrle", "png"), "matroska": ("ffv1",), "avi": ("ffv1", "utvideo"), "nut": ("ffv1",)}

# Near-transparent and quick enough for a laptop; docs/decisions.md has the measurements.
DEFAULTS: dict[str, dict[str, str]] = {
    **dict.fromkeys(("libx264", "libx264rgb"), {"crf": "18", "preset": "veryfast"}),
    "libx265": {"crf": "18", "preset": "superfast", "x265-params": "log-level=none"},
    "libsvtav1": {"crf": "24", "preset": "8"},
    "libvpx-vp9": {"crf": "24", "deadline": "good", "cpu-used": "5", "row-mt": "1"},
    "libvpx": {"crf": "8", "b": "50M", "deadline": "good", "cpu-used": "5"},
    "prores_ks": {"vendor": "apl0"},
    **{name: {"qmin": "2", "qmax": "3", "b": "200M"} for name in ("mpeg4", "mpeg2video", "mpeg1video")},
    # Constant quality; b=0 lifts the two megabits a second that FFmpeg would otherwise keep to.
    **dict.fromkeys(("h264_nvenc", "hevc_nvenc", "av1_nvenc"), {"rc": "vbr", "cq": "19", "b": "0", "preset": "p4"}),
    "mjpeg": {"qmin": "2", "qmax": "3", "b": "200M", "strict": "-1"},  # which lets it take limited range
}
_PRORES_PROFILES = {"Proxy": "proxy", "LT": "lt", "HQ": "hq", "4444": "4444", "XQ": "4444xq"}
# All of SMPTE ST 2019-1 (VC-3), in megabits a second.
_DNXHD_MEGABITS = (
    36, 42, 45, 60, 63, 75, 80, 84, 90, 100, 110, 115, 120, 145, 175, 180, 185, 220, 240, 290, 350, 365, 390, 440, 730,
    880,
)  # fmt: skip
_HARDWARE = ("_qsv", "_vaapi", "_videotoolbox")
_QUALITY_OPTIONS = {"crf", "qp", "cq", "cqp", "b", "q", "qscale", "global_quality", "qmin", "qmax", "lossless"}


@dataclass(frozen=True)
class EncoderPlan:
    """What the frames are encoded with.

    Attributes:
        name: FFmpeg's encoder name.
        work_format: planar format that frames are enhanced in.
        pixel_format: format that the encoder takes; the same unless it wants packed pixels.
        options: the encoder's options.
        warnings: what the choice changes, a line each.
        on_device: frames reach the encoder in the GPU's memory, in `pixel_format`.
        color: what the stored codes mean, where that can't be what the input's mean; None leaves them as they are.
        drops_alpha: the input may be transparent, and nothing here can hold that.
    """

    name: str
    work_format: str
    pixel_format: str
    options: dict[str, str]
    warnings: list[str] = field(default_factory=list)
    on_device: bool = False
    color: Color | None = None
    drops_alpha: bool = False


def output_suffix(source: Path) -> str:
    """The suffix for an enhanced copy: the input's own, case kept, where it can be written; else ".mkv"."""
    return source.suffix if source.suffix.lower() in _MUXERS else ".mkv"


def muxer_for(target: Path | None, video: VideoSettings, source_format: str) -> str:
    """FFmpeg's muxer name for a target; streams get y4m where the input was that, and Matroska otherwise.

    Raises:
        UsageError: the suffix or the format's name is unknown.
    """
    import av

    if video.output_format is not None:
        asked = video.output_format.lower().removeprefix(".")
        name = _MUXERS.get(f".{asked}", asked)
        try:
            form = av.ContainerFormat(name, "w")
            if form.is_output and not form.no_file:  # others write files of names they choose
                return name
        except ValueError:
            pass
        known = " ".join(suffix.removeprefix(".") for suffix in _MUXERS)
        raise UsageError(f"--format {video.output_format}: can't write such a file; use one of {known}")
    if target is None:
        return "yuv4mpegpipe" if source_format == "yuv4mpegpipe" else "matroska"
    try:
        return _MUXERS[target.suffix.lower()]
    except KeyError:
        known = " ".join(_MUXERS)
        raise UsageError(f"{target}: can't write a {target.suffix or 'nameless'} file; use one of {known}") from None


def _holds(muxer: str, encoder: str) -> bool:
    import av

    with av.open(io.BytesIO(), "w", format=muxer) as container:
        try:
            container.add_stream(encoder)
        except ValueError:
            return False
        return True


def _family(codec: str, muxer: str, rgb: bool) -> str | None:
    """The encoder of the input's own codec, if there is one worth using."""
    import av

    if muxer == "yuv4mpegpipe":
        return "wrapped_avframe"
    if codec in (*_NOT_KEPT, *_TOO_NEW.get(muxer, ())):
        return None
    name = "libx264rgb" if codec == "h264" and rgb else _ENCODERS.get(codec, codec)
    try:
        return name if av.codec.Codec(name, "w").type == "video" else None
    except av.codec.codec.UnknownCodecError:
        return None


def plan_encoder(
    codec: str,
    decoded: VideoFormat,
    size: tuple[int, int],
    muxer: str,
    video: VideoSettings,
    profile: str | None = None,
) -> EncoderPlan:
    """The first of `plans`.

    Raises:
        UsageError: the asked encoder or option doesn't exist. OutputError: nothing fits the container.
    """
    plan = next(plans(codec, decoded, size, muxer, video, profile), None)
    if plan is None:
        raise nothing_fits(codec, decoded, size, muxer)
    return plan


def nothing_fits(codec: str, decoded: VideoFormat, size: tuple[int, int], muxer: str) -> OutputError:
    """The error for an input that no encoder takes."""
    shape = f"{size[0]}×{size[1]} {decoded.name}"
    return OutputError(f"nothing here puts {codec} {shape} into {muxer}; choose .mkv, or another --codec")


def refused(plan: EncoderPlan, why: str) -> UsageError:
    """The error for an encoder that doesn't start."""
    given = " ".join(f"{key}={value}" for key, value in plan.options.items()) or "its defaults"
    return UsageError(
        f"{plan.name} doesn't start with {given} ({why}); rtlit doctor lists the encoders that work here"
    )


def plans(
    codec: str,
    decoded: VideoFormat,
    size: tuple[int, int],
    muxer: str,
    video: VideoSettings,
    profile: str | None = None,
    bit_rate: int | None = None,
    transparent: bool = False,
) -> Iterator[EncoderPlan]:
    """Encoder, pixel format and options for an input, the best choice first; which of them work is to be tried.

    Args:
        codec: the input's decoder name.
        decoded: format of its frames.
        size: (width, height) to encode.
        profile, bit_rate: the input's, for ProRes and DNxHD.
        transparent: the picture is transparent somewhere, for which another codec than the input's is worth taking.

    Raises:
        UsageError: the asked encoder or option doesn't exist.
    """
    import av

    from rtlit.avframe import planar_name

    work = "gbrap" if decoded.has_palette and transparent else planar_name(decoded)
    if video.ten_bit and opaque_format(work).depth < 10:
        work = work.replace("yuvj", "yuv").removesuffix("9le") + "10le"
    family = _family(codec, muxer, opaque_format(work).is_rgb)
    usual = ["libx264", "libx265"] if opaque_format(work).depth == 8 else ["libx265", "libx264"]
    usual = list(_USUAL.get(muxer, (*usual, "libsvtav1", "libvpx-vp9", "libvpx", "mpeg2video", "ffv1")))
    source = av.Codec(codec, "r") if codec in av.codecs_available else None
    exact = source is not None and source.lossless and not source.lossy and codec not in _NOT_KEPT
    for keep_alpha in (True, False) if has_alpha(work) else (False,):
        wanted = work if keep_alpha else opaque(work)
        if video.codec is not None:
            choices = [_asked(video.codec, muxer)]
            preferred = [family]
        else:
            first = _ALPHA_ENCODERS if keep_alpha and transparent else _LOSSLESS_ENCODERS if exact else {}
            preferred = [family, *first.get(muxer, ())]
            names = dict.fromkeys(preferred if keep_alpha else (*preferred, *usual))
            choices = [name for name in names if name and _holds(muxer, name)]
        for name, pixel_format, whole in ranked(choices, preferred, wanted, decoded.name, size):
            warnings = []
            if video.codec is None and name != family:
                warnings.append(f"video is encoded with {name}: nothing here puts {codec} {wanted} into {muxer}")
            if not whole:
                warnings.append(f"pixels are stored as {pixel_format}: {name} in {muxer} has no {wanted}")
            work_format = planar_name(av.VideoFormat(pixel_format, 64, 64))
            drops = has_alpha(work) and not has_alpha(work_format)
            for preset in _profiles(name, codec, profile, pixel_format, bit_rate):
                options = _options(name, video, preset)
                if muxer == "avi" and name in ("libx264", "libx264rgb", "libx265"):
                    options.setdefault("bf", "0")  # AVI has no presentation times to put B-frames in order by
                if name == "libx264" and opaque_format(work).is_rgb:
                    options.setdefault("chromaoffset", "-6")  # x264 stores 4:4:4's chroma 6 steps coarser by itself
                if name.startswith("libvpx") and has_alpha(work_format):
                    options.setdefault("auto-alt-ref", "0")  # libvpx's frames out of order have no transparency
                yield EncoderPlan(name, work_format, pixel_format, options, warnings, drops_alpha=drops)


def _asked(encoder: str, muxer: str) -> str:
    import av

    try:
        codec = av.codec.Codec(encoder, "w")
    except (av.codec.codec.UnknownCodecError, ValueError):
        raise UsageError(f"--codec {encoder}: no such encoder; try libx264, libx265, libsvtav1 or ffv1") from None
    if codec.type != "video":
        raise UsageError(f"--codec {encoder}: is for {codec.type}, not video")
    if not _holds(muxer, encoder):
        raise UsageError(f"--codec {encoder}: {muxer} can't hold it; choose another codec, or .mkv")
    return encoder


def _profiles(
    encoder: str, codec: str, profile: str | None, pixel_format: str, bit_rate: int | None
) -> list[dict[str, str]]:
    """Options by which an encoder makes the input's kind of stream, the nearest first."""
    if encoder == "prores_ks" and codec == "prores" and profile:
        return [{"profile": _PRORES_PROFILES.get(profile, "standard")}]
    if encoder != "dnxhd":
        return [{}]
    best = {"yuv422p": "dnxhr_hq", "yuv422p10le": "dnxhr_hqx"}.get(pixel_format, "dnxhr_444")
    kind = (profile or "").lower().replace(" ", "_")
    found = [{"profile": kind}] if codec == "dnxhd" and kind.startswith("dnxhr_") else []
    if kind == "dnxhd" and bit_rate:  # its sizes and rates come with bit rates that the encoder wants to the megabit
        near = sorted(_DNXHD_MEGABITS, key=lambda rate: abs(rate * 1_000_000 - bit_rate))
        found = [{"profile": "dnxhd", "b": f"{rate}M"} for rate in near[:4]]
    return [*found, {"profile": best}]


def _options(encoder: str, video: VideoSettings, preset: dict[str, str]) -> dict[str, str]:
    import av

    names = av.CodecContext.create(encoder, "w").supported_options
    known = {option.name for option in (*names.generic, *names.private)}
    options = {**DEFAULTS.get(encoder, {}), **preset}
    if video.crf is not None:
        # All encoders know global_quality; those of hardware alone heed it without a flag.
        keys = ("crf", "cq", *(["global_quality"] if encoder.endswith(_HARDWARE) else []))
        key = next((name for name in keys if name in known), "")
        if not key or "qmin" in options:
            raise UsageError(f"--crf: {encoder} has no constant quality; use its own options, as -e qmax=4")
        options[key] = f"{video.crf:g}"
    if video.preset is not None:
        key = next((name for name in ("preset", "cpu-used") if name in known), "")
        if not key:
            raise UsageError(f"--preset {video.preset}: {encoder} has no presets")
        options[key] = video.preset
    if any(key in _QUALITY_OPTIONS - {"cq"} for key, _ in video.options):
        for key in ("crf", "rc", "cq", "qmin", "qmax", "b"):
            options.pop(key, None)
    for key, value in video.options:
        if key not in known:
            raise UsageError(f"-e {key}={value}: {encoder} has no such option; ffmpeg -h encoder={encoder} lists them")
        options[key] = f"{options[key]}:{value}" if key.endswith("-params") and key in options else value
    return options
