"""What a container or stream says about the picture beside its size: how it lies in space, its borders, its screen."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

import av
from av.bitstream import BitStreamFilterContext

from rtlit.video import matroska, probe
from rtlit.video.formats import EncoderPlan
from rtlit.video.matroska import children, element, find, unsigned

if TYPE_CHECKING:
    from av.video.stream import VideoStream

STEREO, SPHERE, CROP, SCREEN = "stereo layout", "360° mapping", "cropping", "HDR10 mastering"
# What a muxer of libavformat's writes and its demuxer reads back, beside the stereo layout. QuickTime has a box of
# Apple's, but libavformat writes there neither how two views are packed nor any mapping but a whole sphere, not turned.
_HELD = {
    **dict.fromkeys(("matroska", "webm", "mp4"), (SPHERE, CROP, SCREEN)),
    "mov": (CROP, SCREEN),
    "3gp": (CROP,),
}
# Matroska's StereoMode by AVStereo3DType and whether the right eye comes first.
_STEREO_MODES = {
    (1, 0): 1, (1, 1): 11, (2, 0): 3, (2, 1): 2, (3, 0): 13, (3, 1): 14,
    (4, 0): 5, (4, 1): 4, (6, 0): 7, (6, 1): 6, (7, 0): 9, (7, 1): 8,
}  # fmt: skip
# Tinted for two eyes: libavformat has no side data for it, but Matroska's muxer takes the tag.
_ANAGLYPHS = {"anaglyph_cyan_red": 10, "anaglyph_green_magenta": 12}
_IN_MP4 = (1, 3)  # side by side and top-bottom, left eye first
_IN_H264 = (1, 3, 5, 7, 9, 13)  # frame packing as libx264 writes it from a frame's side data: any, left eye first
_NOT_IN_WEBM = (12, 13, 14)
_CROPS = (matroska.CROP_LEFT, matroska.CROP_RIGHT, matroska.CROP_TOP, matroska.CROP_BOTTOM)
_LIGHT = (matroska.MASTERING, matroska.MAX_CLL, matroska.MAX_FALL)
# Side data of a frame that no container takes from here, what it is called, and which encoders write it all the same.
_LOST: dict[str, tuple[str, tuple[str, ...]]] = {
    "VIEW_ID": ("other eye's view", ()),
    "3D_REFERENCE_DISPLAYS": ("3D reference displays", ()),
    "LCEVC": ("LCEVC enhancement", ()),
    "AMBIENT_VIEWING_ENVIRONMENT": ("ambient viewing environment", ()),
    "AFD": ("active format description", ()),
    "ICC_PROFILE": ("ICC profile", ("mjpeg", "png", "apng")),
    "EXIF": ("EXIF metadata", ("png", "apng", "tiff")),
}


def carry(
    video: VideoStream,
    source: VideoStream,
    first: av.VideoFrame,
    plan: EncoderPlan,
    size: tuple[int, int],
    warn: Callable[[str], None],
) -> tuple[str, ...]:
    """Describe the picture to the muxer as the input's container or its first frame does; say what is lost.

    Call it before the encoder's context is filled in: most of that is reset.

    Returns:
        What the output's container holds: `STEREO`, `SPHERE`, `CROP`, `SCREEN`.
    """
    kinds, muxer = probe.side_data(first), video.container.format.name
    told = _told(source, kinds)
    passed = first.format.name != "cuda"  # to the encoder, with its side data
    if size != (first.width, first.height):
        gone = [name for name in (STEREO, SPHERE, CROP) if told.pop(name, None) is not None]
        if gone:
            warn(f"{_listed(gone)} left out: a comparison has another shape")
    held = tuple(name for name in told if _holds(muxer, name, told[name]))
    codec = av.Codec(plan.name, "w").canonical_name
    head = matroska.describing(codec, size, b"".join(told[name] for name in held)) if held else None
    if head is None:
        held = ()
    else:
        _hand_on(video, head)
    if STEREO not in held:
        video.metadata.pop("stereo_mode", None)  # Matroska's muxer would believe it
    lost = [name for name in told if name not in (*held, SCREEN)]
    packed = passed and plan.name in ("libx264", "libx264rgb")
    if packed and STEREO in lost and told[STEREO][-1:] in map(bytes, zip(_IN_H264)):
        lost.remove(STEREO)
        if muxer in _HELD:
            warn(f"{STEREO} is told by the stream alone: {muxer} can't hold it")
    lost += [name for key, (name, encoders) in _LOST.items() if key in kinds and not (passed and plan.name in encoders)]
    if lost:
        what = "it" if len(lost) == 1 else "them"
        warn(f"{_listed(lost)} not carried over: {plan.name} in {muxer} can't hold {what}")
    return held


def lost_in_copy(source: VideoStream, muxer: str) -> list[str]:
    """What a container loses of how a copied stream's picture lies in space."""
    told = _told(source, {})
    return [name for name in (STEREO, SPHERE) if name in told and not _holds(muxer, name, told[name])]


def _listed(names: list[str]) -> str:
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'}"


def _told(source: VideoStream, kinds: dict[str, bytes]) -> dict[str, bytes]:
    """Matroska's elements for what is said; empty where they can't say it."""
    video = _as_matroska(source)
    parts = {ident: element(ident, video[begin:end]) for ident, begin, end in children(video)}
    told = {
        STEREO: parts.get(matroska.STEREO_MODE) or _stereo_mode(source, kinds),
        SPHERE: b"" if "SPHERICAL" in kinds else None,
        CROP: b"".join(parts[ident] for ident in _CROPS if ident in parts) or None,
    }
    mapping = find(video, matroska.PROJECTION)
    if mapping and int.from_bytes(find(mapping, matroska.PROJECTION_TYPE) or b"", "big"):  # 0: a turned rectangle
        told[SPHERE] = parts[matroska.PROJECTION]
    colour = find(video, matroska.COLOUR) or b""
    stored = b"".join(element(ident, colour[b:e]) for ident, b, e in children(colour) if ident in _LIGHT)
    light = _light(kinds.get("MASTERING_DISPLAY_METADATA"), kinds.get("CONTENT_LIGHT_LEVEL")) or stored
    told[SCREEN] = element(matroska.COLOUR, light) if light else None
    if "VIEW_ID" in kinds:
        told[STEREO] = None  # one of two layers is what was decoded: no pair any more
    return {name: elements for name, elements in told.items() if elements is not None}


def _as_matroska(source: VideoStream) -> bytes:
    """What libavformat knows of a stream, as the elements of Matroska's Video; PyAV shows only a part."""
    file = io.BytesIO()
    try:
        with av.open(file, "w", format="matroska") as output:
            output.add_stream_from_template(source, opaque=True)
            output.start_encoding()
    except (ValueError, av.error.FFmpegError):  # a codec that Matroska doesn't hold
        return b""
    path = (matroska.SEGMENT, matroska.TRACKS, matroska.ENTRY, matroska.VIDEO)
    return find(file.getvalue(), *path) or b""


def _stereo_mode(source: VideoStream, kinds: dict[str, bytes]) -> bytes | None:
    tag = source.metadata.get("stereo_mode", "")
    if tag in _ANAGLYPHS:
        return unsigned(matroska.STEREO_MODE, _ANAGLYPHS[tag])
    if "STEREO3D" not in kinds:
        return None
    packing, flags = struct.unpack("=2i", kinds["STEREO3D"][:8])  # AVStereo3D
    mode = _STEREO_MODES.get((packing, flags & 1))
    return (unsigned(matroska.STEREO_MODE, mode) if mode else b"") if packing else None


def _light(screen: bytes | None, content: bytes | None) -> bytes:
    """AVMasteringDisplayMetadata and AVContentLightMetadata as elements of Matroska's Colour."""
    elements = b""
    if screen is not None:
        numbers = probe.mastering_of(screen)
        elements += element(matroska.MASTERING, matroska.floats(matroska.MASTERING_FIRST, numbers))
    if content is not None:
        most, mean = struct.unpack("=2I", content[:8])
        elements += unsigned(matroska.MAX_CLL, most) + unsigned(matroska.MAX_FALL, mean)
    return elements


def _holds(muxer: str, name: str, elements: bytes) -> bool:
    if not elements or name == SPHERE and muxer == "mov" and _looks_ahead(elements):
        return bool(elements)
    if name == STEREO:
        mode = elements[-1]
        return {"matroska": True, "webm": mode not in _NOT_IN_WEBM, "mp4": mode in _IN_MP4}.get(muxer, False)
    return name in _HELD.get(muxer, ())


def _looks_ahead(projection: bytes) -> bool:
    """Whether a mapping is of the whole sphere, not turned: all numbers but its type are 0."""
    mapping = find(projection, matroska.PROJECTION) or b""
    numbers = (mapping[begin:end] for ident, begin, end in children(mapping) if ident != matroska.PROJECTION_TYPE)
    return find(mapping, matroska.PROJECTION_TYPE) == b"\1" and not any(map(any, numbers))


def _hand_on(video: VideoStream, head: bytes) -> None:
    """Give a stream the side data of a file's: PyAV sets none but the rotation, and copies it through a filter."""
    context = video.codec_context
    rate = context.framerate
    with av.open(io.BytesIO(head)) as described:
        BitStreamFilterContext("null", in_stream=described.streams.video[0], out_stream=video)
    context.framerate, context.codec_tag = rate, "\0\0\0\0"
