"""Which pixel formats hold a picture, and how near each comes."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rtlit.frame import PixelFormat

# These refuse a size that the chroma subsampling does not divide.
_EVEN_ONLY = ("264", "265", "hevc", "qsv", "prores", "dnxhd")
# Encoders that hold RGB so that hardly a player shows it, or in files of many times the size: not unless the input has
# that codec, or it is asked for.
_RGB_UNSHOWN = ("libx265", "libvpx-vp9", "ffv1")
# Formats that an encoder lists and then refuses, or that FFmpeg's decoders before version 8 don't know.
_UNUSABLE = {
    "libvpx-vp9": ("gbrap",),
    "ffv1": ("yuva422p12le", "yuva444p12le", "gbrap14le", "gray14le"),
}
_FLOAT = re.compile(r"f(16|32)(le|be)$")
_CHROMA_NAMES = {(0, 0): "444", (1, 0): "422", (1, 1): "420", (0, 1): "440", (2, 0): "411", (2, 2): "410"}


def opaque_format(name: str) -> PixelFormat:
    """The planes of a planar format without its alpha."""
    return PixelFormat(opaque(name))


def opaque(planar: str) -> str:
    """A planar format's name without its alpha."""
    return planar.replace("yuva", "yuv").replace("gbrap", "gbrp")


def has_alpha(planar: str) -> bool:
    """Whether a planar format has a plane of transparency."""
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
    if more[0] < 0 or has_alpha(work) and not has_alpha(planar):
        return None
    return (there.channels, *more, has_alpha(planar) and not has_alpha(work), planar != candidate)


def _formats(encoder: str, work: str, decoded: str, size: tuple[int, int]) -> list[tuple[tuple[int, ...], str]]:
    """(excess, name) of the encoder's formats that hold `work`, the one with least to spare first."""
    import av
    from av.video.format import names  # type: ignore[attr-defined]

    listed = av.codec.Codec(encoder, "w").video_formats
    even_only = any(part in encoder for part in _EVEN_ONLY)
    known = [f.name for f in listed or () if f.name not in _UNUSABLE.get(encoder, ())]
    if listed:
        return sorted((more, name) for name in known if (more := _excess(work, name, size, even_only)) is not None)
    # rawvideo and wrapped_avframe take anything; what the container can name is tried, the input's own format first.
    anything = [name for name in names if av.VideoFormat(name, 64, 64).components]
    fits = [(more, name) for name in anything if (more := _excess(work, name, size, False)) is not None]
    exact = [(more, name) for more, name in fits if not any(more[1:4])]
    return sorted(exact, key=lambda fit: (fit[1] != decoded, fit[1].endswith("be"), *fit))


def ranked(
    choices: list[str], preferred: list[str | None], work: str, decoded: str, size: tuple[int, int]
) -> Iterator[tuple[str, str, bool]]:
    """(encoder, pixel format, whether it holds all of `work`), the best first: `preferred` ones in their order."""
    plain = work.replace("yuvj", "yuv")
    if preferred[0] == "prores_ks" and "prores_ks" in choices and work.endswith("444p12le"):
        # FFmpeg's decoder fills 12 bits for 4444, its encoder takes 10.
        ten = work.replace("12", "10")
        yield from (("prores_ks", name, False) for _, name in _formats("prores_ks", ten, decoded, size))
    for stored in dict.fromkeys((work, plain, *_lesser(work))):
        # Then the format with least to spare, then the order of `choices`.
        rgb = len(choices) > 1 and opaque_format(stored).is_rgb
        able = [name for name in choices if not rgb or name in preferred or name not in _RGB_UNSHOWN]
        fits = [(name, *fit) for name in able for fit in _formats(name, stored, decoded, size)]
        fits.sort(key=lambda fit: (preferred.index(fit[0]), ()) if fit[0] in preferred else (len(preferred), fit[1]))
        yield from ((name, pixel_format, stored in (work, plain)) for name, _, pixel_format in fits)


def _lesser(work: str) -> list[str]:
    """Formats to fall back on when nothing holds `work` whole, the nearest first: fewer bits before less chroma."""
    here = opaque_format(work)
    chroma = _CHROMA_NAMES[here.shift_x, here.shift_y] if here.channels == 3 else "420"
    depths = ["10le", ""] if here.depth > 8 else [""]
    kind = "yuva" if has_alpha(work) else "yuv"
    return [f"{kind}{sampling}p{depth}" for depth in depths for sampling in dict.fromkeys((chroma, "422", "420"))]
