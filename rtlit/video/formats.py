"""Which muxer, encoder and pixel format hold a video, and the encoder's default quality and speed."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rtlit.errors import OutputError, UsageError
from rtlit.frame import PixelFormat
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
_NOT_KEPT = {"gif", "wmv1", "wmv2", "msmpeg4v1", "msmpeg4v2", "msmpeg4v3", "msmpeg4", "flv", "h263", "cinepak", "webp"}

# Near-transparent and quick enough for a laptop; docs/decisions.md has the measurements.
_DEFAULTS: dict[str, dict[str, str]] = {
    "libx264": {"crf": "18", "preset": "veryfast"},
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
_QUALITY_OPTIONS = {"crf", "qp", "cq", "cqp", "b", "q", "qscale", "global_quality", "qmin", "qmax", "lossless"}
# These refuse a size that the chroma subsampling does not divide.
_EVEN_ONLY = ("264", "265", "hevc", "qsv", "prores", "dnxhd")
_FLOAT = re.compile(r"f(16|32)(le|be)$")
_CHROMA_NAMES = {(0, 0): "444", (1, 0): "422", (1, 1): "420", (0, 1): "440", (2, 0): "411", (2, 2): "410"}


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
    """

    name: str
    work_format: str
    pixel_format: str
    options: dict[str, str]
    warnings: list[str] = field(default_factory=list)
    on_device: bool = False


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
        name = {"mkv": "matroska", "y4m": "yuv4mpegpipe", "ts": "mpegts"}.get(video.output_format, video.output_format)
        try:
            form = av.ContainerFormat(name, "w")
            if form.is_output and not form.no_file:  # others write files of names they choose
                return name
        except ValueError:
            pass
        raise UsageError(f"there is no output format {video.output_format!r}; try mp4, mov, matroska, webm or y4m")
    if target is None:
        return "yuv4mpegpipe" if source_format == "yuv4mpegpipe" else "matroska"
    try:
        return _MUXERS[target.suffix.lower()]
    except KeyError:
        known = " ".join(_MUXERS)
        raise UsageError(f"{target}: can't write a {target.suffix or 'nameless'} file; use one of {known}") from None


def opaque_format(name: str) -> PixelFormat:
    """The planes of a planar format without its alpha."""
    return PixelFormat(name.replace("yuva", "yuv").replace("gbrap", "gbrp"))


def _has_alpha(planar: str) -> bool:
    return planar.startswith(("yuva", "gbrap"))


def _excess(work: str, candidate: str, size: tuple[int, int], even_only: bool) -> tuple[int, ...] | None:
    """How much more than `work` a candidate stores, to take the least; None where something would be lost."""
    import av

    from rtlit.avframe import planar_name

    pixels = av.VideoFormat(candidate, 64, 64)
    if pixels.has_palette or _FLOAT.search(candidate) or min((part.bits for part in pixels.components), default=0) < 8:
        return None
    planar = planar_name(pixels)
    if planar.startswith("yuvj") != work.startswith("yuvj"):
        return None  # swscale would convert the range
    there, here = opaque_format(planar), opaque_format(work)
    if even_only and (size[0] % (1 << there.shift_x) or size[1] % (1 << there.shift_y)):
        return None
    more = (there.depth - here.depth, here.shift_x - there.shift_x, here.shift_y - there.shift_y)
    if there.is_rgb != here.is_rgb or there.channels < here.channels or min(more) < 0 and here.channels > 1:
        return None
    if more[0] < 0:
        return None
    return (_has_alpha(work) and not _has_alpha(planar), there.channels, *more, _has_alpha(planar), planar != candidate)


def _best_format(encoder: str, work: str, size: tuple[int, int]) -> tuple[tuple[int, ...], str] | None:
    """(excess, name) of the encoder's format that holds `work` with least to spare."""
    import av

    formats = av.codec.Codec(encoder, "w").video_formats
    if not formats:  # rawvideo and wrapped_avframe take anything
        return (), work
    even_only = any(part in encoder for part in _EVEN_ONLY)
    # libvpx-vp9 lists gbrap and then refuses to open with it.
    names = [f.name for f in formats if not (encoder == "libvpx-vp9" and f.name.startswith("gbrap"))]
    ranked = [(more, name) for name in names if (more := _excess(work, name, size, even_only)) is not None]
    return min(ranked, default=None)


def _holds(muxer: str, encoder: str) -> bool:
    import av

    with av.open(io.BytesIO(), "w", format=muxer) as container:
        try:
            container.add_stream(encoder)
        except ValueError:
            return False
        return True


def _family(codec: str, muxer: str) -> str | None:
    """The encoder of the input's own codec, if there is one worth using."""
    import av

    if muxer == "yuv4mpegpipe":
        return "wrapped_avframe"
    if codec in _NOT_KEPT or codec == "rawvideo" and muxer not in ("avi", "mov", "nut"):
        return None
    name = _ENCODERS.get(codec, codec)
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
    """Choose encoder, pixel format and options for an input.

    Args:
        codec: the input's decoder name.
        decoded: format of its frames.
        size: (width, height) to encode.
        profile: the input's profile, for ProRes.

    Raises:
        UsageError: the asked encoder or option doesn't exist. OutputError: nothing fits the container.
    """
    import av

    from rtlit.avframe import planar_name

    work = planar_name(decoded)
    if video.ten_bit and opaque_format(work).depth < 10:
        work = work.replace("yuvj", "yuv").removesuffix("9le") + "10le"
    family = _family(codec, muxer)
    if video.codec is not None:
        choices = [_asked(video.codec, muxer)]
    else:
        usual = ["libx264", "libx265"] if opaque_format(work).depth == 8 else ["libx265"]
        choices = [name for name in (family, *usual, "libsvtav1", "libvpx-vp9", "libvpx", "mpeg2video", "ffv1") if name]
        choices = [name for name in choices if _holds(muxer, name)]
    plain = work.replace("yuvj", "yuv")
    for stored in dict.fromkeys((work, plain, *_lesser(work))):
        fits = [(name != family, fit, name) for name in choices if (fit := _best_format(name, stored, size))]
        # The input's family first, then the format with least to spare, then the order of `choices`.
        best = min(fits, key=lambda fit: fit[:2], default=None)
        if best is None:
            continue
        encoder, pixel_format = best[2], best[1][1]
        warnings = []
        if video.codec is None and encoder != family:
            warnings.append(f"video is encoded with {encoder}: nothing here puts {codec} {work} into {muxer}")
        if stored not in (work, plain):
            warnings.append(f"pixels are stored as {pixel_format}: {encoder} in {muxer} has no {work}")
        work_format = planar_name(av.VideoFormat(pixel_format, 64, 64))
        options = _options(encoder, video, codec, profile)
        if muxer == "avi" and encoder in ("libx264", "libx265"):
            options.setdefault("bf", "0")  # AVI has no presentation times to put B-frames in order by
        return EncoderPlan(encoder, work_format, pixel_format, options, warnings)
    shape = f"{size[0]}×{size[1]} {work}"
    raise OutputError(f"nothing here puts {codec} {shape} into {muxer}; choose .mkv, or another --codec")


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


def _lesser(work: str) -> list[str]:
    """Formats to fall back on when nothing holds `work` whole, the nearest first: fewer bits before less chroma."""
    here = opaque_format(work)
    chroma = _CHROMA_NAMES[here.shift_x, here.shift_y] if here.channels == 3 else "420"
    depths = ["10le", ""] if here.depth > 8 else [""]
    return [f"yuv{sampling}p{depth}" for depth in depths for sampling in dict.fromkeys((chroma, "422", "420"))]


def _options(encoder: str, video: VideoSettings, codec: str, profile: str | None) -> dict[str, str]:
    import av

    names = av.CodecContext.create(encoder, "w").supported_options
    known = {option.name for option in (*names.generic, *names.private)}
    options = dict(_DEFAULTS.get(encoder, {}))
    if encoder == "prores_ks" and codec == "prores" and profile:
        options["profile"] = {"Proxy": "proxy", "LT": "lt", "HQ": "hq", "4444": "4444", "XQ": "4444xq"}.get(
            profile, "standard"
        )
    if video.crf is not None:
        key = next((name for name in ("crf", "cq", "global_quality") if name in known), "")
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
