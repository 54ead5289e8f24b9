"""enhance_image: one picture file, with everything else in it kept.

Pixels pass through libvips: bit depth (8 or 16), grey, transparency, ICC profile, EXIF, XMP and IPTC stay. So does
the orientation tag, over pixels that lie as they lay.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pyvips

from rtlit import files, image_extras as extras
from rtlit.enhancer import Enhancer
from rtlit.errors import InputError, OutputError, UsageError
from rtlit.reference import MIN_SIZE
from rtlit.settings import Device

# What libvips reads → the suffix whose saver writes it back.
_SUFFIXES = {"jpeg": ".jpg", "png": ".png", "webp": ".webp", "tiff": ".tif", "heif": ".avif", "gif": ".gif"}
# Lossy savers at a quality where re-encoding can't be seen; libvips would save TIFF uncompressed.
_OPTIONS: dict[str, dict[str, object]] = {
    ".jpg": {"Q": 95, "optimize_coding": True},
    ".webp": {"Q": 95},
    ".avif": {"Q": 85},
    ".tif": {"compression": "lzw", "predictor": "horizontal"},
}
_ALIASES = {".jpeg": ".jpg", ".jpe": ".jpg", ".jfif": ".jpg", ".tiff": ".tif", ".heif": ".heic"}
_KINDS = {"srgb": 3, "rgb": 3, "rgb16": 3, "b-w": 1, "grey16": 1}
_DEPTHS = {"uchar": 8, "ushort": 16}
_METADATA = {"exif-data": "EXIF", "xmp-data": "XMP", "iptc-data": "IPTC", "icc-profile-data": "ICC profile"}
# EXIF orientation → quarters of a turn, counterclockwise, mirroring aside.
_QUARTER_TURNS = {3: 2, 4: 2, 5: 3, 6: 3, 7: 1, 8: 1}


@dataclass(frozen=True)
class ImageReport:
    """What was done."""

    input: str
    output: str
    width: int
    height: int
    channels: int
    depth: int
    backend: str
    backend_reason: str
    wall_seconds: float
    warnings: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def enhance_image(
    source: str | Path | BinaryIO,
    target: str | Path | BinaryIO,
    *,
    device: Device = "auto",
    strength: float = 1.0,
    weights: Path | str | None = None,
    threads: int | None = None,
    output_format: str | None = None,
    overwrite: bool = False,
    on_warning: Callable[[str], None] | None = None,
) -> ImageReport:
    """Enhance a JPEG, PNG, WebP, TIFF, AVIF or GIF picture.

    Args:
        source: a file or an open binary stream.
        target: the same; a file appears at its name only when it is complete.
        device, strength, weights, threads: see `rtlit.settings.EnhanceSettings`.
        output_format: "jpg", "png", "webp", "tif", …; None follows the target's name, or the input for a stream.
        overwrite: replace an existing target.
        on_warning: told, in one line each, what the target's format can't hold.

    Raises:
        InputError: not a picture, damaged, several pages, CMYK, floating point, smaller than 16×16.
        OutputError: the target exists, is the source or can't be written.
        UsageError: no picture format has the target's suffix.
    """
    began = time.perf_counter()
    name, target_name = _name(source), _name(target)
    files.check_target(source, target, overwrite)
    enhancer = Enhancer(device, strength, weights=weights, threads=threads)
    data = _bytes(source)
    if extras.is_sequence(data):  # which libvips doesn't read
        raise InputError(f"{name}: is an animation; use enhance-video")
    image, warnings = _read(data, name)
    if not str(image.get("vips-loader")).startswith(tuple(_SUFFIXES)):  # what else this libvips happens to read
        raise InputError(f"{name}: is {extras.foreign(data) or 'no ' + extras.KNOWN}")
    _check(image, max(image.get_n_pages(), extras.frames(data)), name)
    suffix = _suffix(target, output_format, image)
    if suffix not in _SUFFIXES.values():
        known = " ".join(sorted({*_SUFFIXES.values(), *_ALIASES} - {".heif"}))
        kind = f"a {suffix} file" if suffix else "a file without suffix"
        raise UsageError(f"{target_name}: can't be saved as {kind}; use one of {known}")
    result = save(_enhance(image, enhancer), suffix, _is_lossless_webp(data), target_name)
    result = extras.with_color(result, data)
    if beside := extras.lost(data) + extras.color_lost(result, data) + extras.tags_lost(result, data):
        warnings.append(f"lost, for nothing here can write it: {', '.join(beside)}")
    warnings += _losses(image, result, suffix)
    files.write(target, result, source)
    if on_warning is not None:
        for text in warnings:
            on_warning(text)
    return ImageReport(
        name,
        target_name,
        image.width,
        image.height,
        image.bands,
        _DEPTHS[image.format],
        enhancer.backend_name,
        enhancer.choice.reason,
        time.perf_counter() - began,
        warnings,
    )


def _name(stream: str | Path | BinaryIO) -> str:
    return str(stream) if isinstance(stream, str | Path) else str(getattr(stream, "name", "the stream")).strip("<>")


def _bytes(source: str | Path | BinaryIO) -> bytes:
    if not isinstance(source, str | Path):
        return source.read()
    try:
        return Path(source).read_bytes()
    except FileNotFoundError:
        raise InputError(f"{source}: no such file") from None
    except OSError as error:
        raise InputError(f"{source}: can't be read ({error.strerror})") from None


def _read(data: bytes, name: str) -> tuple[pyvips.Image, list[str]]:
    """The decoded picture, and a warning when the decoder had to guess."""
    if not data:
        raise InputError(f"{name}: the file is empty")
    try:
        return pyvips.Image.new_from_buffer(data, "", fail_on="warning").copy_memory(), []
    except pyvips.Error as error:
        fault = _reason(error)
    try:
        return pyvips.Image.new_from_buffer(data, "", fail_on="error").copy_memory(), [f"the file is damaged ({fault})"]
    except pyvips.Error as error:
        if (other := extras.foreign(data)) is not None:
            raise InputError(f"{name}: is {other}") from None
        raise InputError(f"{name}: not a whole picture of a known format ({_reason(error)})") from None


def _reason(error: pyvips.Error) -> str:
    """The first line of what libvips says, below pyvips' own."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[min(1, len(lines) - 1)]


def _check(image: pyvips.Image, pages: int, name: str) -> None:
    if pages > 1:
        raise InputError(f"{name}: holds {pages} pictures; {_way_out(image)}")
    channels = _KINDS.get(image.interpretation)
    if channels is None or image.format not in _DEPTHS or image.bands - channels not in (0, 1):
        what = f"{image.interpretation} pixels of {image.bands} × {image.format}"
        raise InputError(f"{name}: {what} are not supported; convert it to RGB or grey of 8 or 16 bits")
    if min(image.width, image.height) < MIN_SIZE:
        size = f"{image.width}×{image.height}"
        raise InputError(f"{name}: {size} is too small; each side must be at least {MIN_SIZE} pixels")


def _way_out(image: pyvips.Image) -> str:
    """What to do with several pictures in a file. FFmpeg reads the first page of a TIFF, and no animated WebP."""
    loader = str(image.get("vips-loader"))
    if loader.startswith("tiff"):
        return "split it, one page a file"
    if loader.startswith("webp"):
        return "convert the animation to GIF or APNG, and use enhance-video"
    return "split it, or use enhance-video for an animation"


def _enhance(image: pyvips.Image, enhancer: Enhancer) -> pyvips.Image:
    """The picture with its colours lifted; transparency and metadata are its own."""
    channels = _KINDS[image.interpretation]
    pixels = image.extract_band(0, n=channels).numpy()  # [H, W, 3], or [H, W] of a grey picture
    orientation = image.get("orientation") if image.get_typeof("orientation") else 1
    lifted = enhancer(pixels, quarter_turns=_QUARTER_TURNS.get(orientation, 0))
    result = pyvips.Image.new_from_array(lifted)
    if image.bands > channels:
        result = result.bandjoin(image[channels])
    # Metadata is that of the picture drawn on; all but its preview, which shows the old one.
    result = image.insert(result.copy(interpretation=image.interpretation), 0, 0).copy()
    result.remove("jpeg-thumbnail-data")
    if result.get_typeof("xmp-data"):
        xmp = extras.without_announcements(result.get("xmp-data"))
        result.set_type(pyvips.GValue.blob_type, "xmp-data", xmp)
    return result


def _suffix(target: str | Path | BinaryIO, output_format: str | None, image: pyvips.Image) -> str:
    """The suffix that names the saver: the format asked for, the target's, or the picture's own."""
    if output_format is not None:
        suffix = f".{output_format.lower().removeprefix('.')}"
    elif (path := files.named(target)) is not None:
        suffix = path.suffix.lower()
    else:
        loader = str(image.get("vips-loader"))
        suffix = next((suffix for kind, suffix in _SUFFIXES.items() if loader.startswith(kind)), ".png")
    return _ALIASES.get(suffix, suffix)


def save(image: pyvips.Image, suffix: str, lossless: bool, name: str) -> bytes:
    """The picture as the bytes of a file.

    Args:
        suffix: ".png", ".jpg", …, which names the format.
        lossless: so, where the format (WebP) may be either.
        name: what messages call it.

    Raises:
        OutputError: the format can't hold it.
    """
    options = dict(_OPTIONS.get(suffix, {}))
    if suffix == ".jpg":
        # libvips' own choice at this quality is never to subsample.
        sampled = image.get_typeof("jpeg-chroma-subsample") and image.get("jpeg-chroma-subsample") != "4:4:4"
        options["subsample_mode"] = "on" if sampled else "off"
    if suffix == ".webp" and lossless:
        options["lossless"] = True
    try:
        data: bytes = image.write_to_buffer(suffix, **options)
    except pyvips.Error as error:
        raise OutputError(f"{name}: can't be saved as {suffix or 'a file without suffix'} ({_reason(error)})") from None
    return data


def _is_lossless_webp(data: bytes) -> bool:
    """Whether a RIFF chunk is VP8L (RFC 9649 §2.3 ff.)."""
    if data[8:12] != b"WEBP":
        return False
    at = 12
    while at + 8 <= len(data):
        if data[at : at + 4] == b"VP8L":
            return True
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + size + size % 2
    return False


def _losses(image: pyvips.Image, data: bytes, suffix: str) -> list[str]:
    """What the saved file can't hold of the picture."""
    saved = pyvips.Image.new_from_buffer(data, "")
    losses = []
    gone = [what for key, what in _METADATA.items() if image.get_typeof(key) and not saved.get_typeof(key)]
    if gone:
        losses.append(f"{suffix} doesn't take over the {' and '.join(gone)}")
    if _DEPTHS[saved.format] < _DEPTHS[image.format]:
        losses.append(f"{suffix} holds 8 bits a channel; the input has {_DEPTHS[image.format]}")
    if image.hasalpha() and not saved.hasalpha():
        losses.append(f"{suffix} holds no transparency; it is flattened on black")
    return losses
