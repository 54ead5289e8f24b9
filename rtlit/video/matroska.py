"""What libavformat's Matroska can't be told through PyAV, in bytes (RFC 8794 EBML, RFC 9559 Matroska).

Two directions: a header of one track that describes a picture, for the demuxer to read; and a track's display size,
which the muxer takes from a field that PyAV doesn't reach, put into a header that the muxer wrote.
"""

from __future__ import annotations

import mmap
import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from fractions import Fraction

EBML, SEGMENT, TRACKS, ENTRY, CLUSTER = 0x1A45DFA3, 0x18538067, 0x1654AE6B, 0xAE, 0x1F43B675
CODEC_ID, CODEC_PRIVATE, VIDEO, NAME, VOID, CRC32 = 0x86, 0x63A2, 0xE0, 0x536E, 0xEC, 0xBF
PIXEL_WIDTH, PIXEL_HEIGHT, DISPLAY_WIDTH, DISPLAY_HEIGHT, DISPLAY_UNIT = 0xB0, 0xBA, 0x54B0, 0x54BA, 0x54B2
CROP_LEFT, CROP_RIGHT, CROP_TOP, CROP_BOTTOM = 0x54CC, 0x54DD, 0x54BB, 0x54AA
STEREO_MODE, PROJECTION, PROJECTION_TYPE = 0x53B8, 0x7670, 0x7671
COLOUR, MASTERING, MAX_CLL, MAX_FALL = 0x55B0, 0x55D0, 0x55BC, 0x55BD
MASTERING_FIRST = 0x55D1  # x and y of red, green, blue and white, most and least luminance have IDs in this order
_CODECS = {
    "h264": "V_MPEG4/ISO/AVC",
    "hevc": "V_MPEGH/ISO/HEVC",
    "av1": "V_AV1",
    "vp8": "V_VP8",
    "vp9": "V_VP9",
    "ffv1": "V_FFV1",
    "mpeg4": "V_MPEG4/ISO/ASP",
    "mpeg2video": "V_MPEG2",
    "mpeg1video": "V_MPEG1",
    "mjpeg": "V_MJPEG",
    "prores": "V_PRORES",
}
# A display size is that of one eye: side by side and columns share the width, the others the height.
_HALF_WIDTH, _HALF_HEIGHT = (1, 8, 9, 11), (2, 3, 6, 7)
_MARKED = re.compile(rb"(.*)\x1f(\d+):(\d+) *", re.DOTALL)
_MARK_LENGTH = 40  # of "…:…" and of the elements that take its place


def element(ident: int, payload: bytes) -> bytes:
    """An element with the shortest size that holds its payload."""
    width = next(n for n in range(1, 9) if len(payload) < (1 << 7 * n) - 1)
    size = (len(payload) | 1 << 7 * width).to_bytes(width, "big")
    return ident.to_bytes((ident.bit_length() + 7) // 8, "big") + size + payload


def unsigned(ident: int, value: int) -> bytes:
    """An element that holds a whole number."""
    return element(ident, value.to_bytes(max(1, (value.bit_length() + 7) // 8), "big"))


def children(data: bytes | mmap.mmap, at: int = 0) -> Iterator[tuple[int, int, int]]:
    """(ID, begin and end of the payload) of the elements from a position on, as far as the bytes reach.

    One of unknown size, as a segment that is still being written, ends with the data.
    """
    while at < len(data):
        ident_length = 9 - data[at].bit_length()
        if at + ident_length >= len(data):
            return
        ident = int.from_bytes(data[at : at + ident_length], "big")
        at += ident_length
        width = 9 - data[at].bit_length()
        if at + width > len(data):
            return
        size = int.from_bytes(data[at : at + width], "big") & (1 << 7 * width) - 1
        at += width
        end = len(data) if size == (1 << 7 * width) - 1 else at + size
        yield ident, at, end
        at = end


def find(data: bytes, *path: int) -> bytes | None:
    """The payload of the first element on a path of IDs, if all of it is there."""
    for wanted in path:
        begin, end = next(((b, e) for ident, b, e in children(data) if ident == wanted), (0, -1))
        if end < 0 or end > len(data) and wanted != SEGMENT:
            return None
        data = data[begin:end]
    return data


def floats(first: int, numbers: Iterable[float]) -> bytes:
    """Elements of consecutive IDs that hold a number each."""
    return b"".join(element(ident, struct.pack(">d", number)) for ident, number in enumerate(numbers, first))


def describing(codec: str, size: tuple[int, int], video: bytes) -> bytes | None:
    """A file of one track without pictures, with elements of its Video; None for a codec that has no name here."""
    if codec not in _CODECS:
        return None
    picture = unsigned(PIXEL_WIDTH, size[0]) + unsigned(PIXEL_HEIGHT, size[1]) + video
    private = element(CODEC_PRIVATE, bytes(4)) if codec == "prores" else b""  # the demuxer asks for four bytes
    number, uid, kind = unsigned(0xD7, 1), unsigned(0x73C5, 1), unsigned(0x83, 1)
    track = number + uid + kind + element(CODEC_ID, _CODECS[codec].encode()) + private + element(VIDEO, picture)
    head = element(EBML, element(0x4282, b"matroska"))
    return head + element(SEGMENT, element(TRACKS, element(ENTRY, track)) + element(CLUSTER, unsigned(0xE7, 0)))


def marked(name: str, aspect: Fraction) -> str:
    """A track's name with a pixel aspect ratio in it, for `complete` to find: it holds the place as well."""
    return name + f"\x1f{aspect.numerator}:{aspect.denominator}".ljust(_MARK_LENGTH)


def complete(head: bytes | mmap.mmap) -> bytes | None:
    """The beginning of a file as far as its tracks, as long as before, with display sizes for marked names.

    None where the tracks aren't all there yet.
    """
    segment = next((begin for ident, begin, _ in children(head) if ident == SEGMENT), None)
    if segment is None:
        return None
    begin, end = next(((b, e) for ident, b, e in children(head, segment) if ident == TRACKS), (0, len(head) + 1))
    if end > len(head):
        return None
    entries, at = b"", begin
    for ident, first, last in children(head[:end], begin):
        # The headers as they are: the muxer's sizes aren't the shortest.
        entries += head[at:first] + (_completed(head[first:last]) if ident == ENTRY else head[first:last])
        at = last
    if entries[0] == CRC32:  # of what follows it: its ID, its size and four bytes are six
        entries = entries[:2] + zlib.crc32(entries[6:]).to_bytes(4, "little") + entries[6:]
    return head[:begin] + entries


def _completed(track: bytes) -> bytes:
    mark = _MARKED.fullmatch(find(track, NAME) or b"")
    if mark is None:
        return track
    kept = b""
    for ident, begin, end in children(track):
        if ident == VIDEO:
            kept += element(ident, _with_display_size(track[begin:end], Fraction(int(mark[2]), int(mark[3]))))
        elif ident != NAME:
            kept += element(ident, track[begin:end])
    kept += element(NAME, mark[1]) if mark[1] else b""
    rest = len(track) - len(kept) - 9  # a size of eight bytes fits any rest; the mark leaves more than that
    return kept + bytes([VOID]) + (rest | 1 << 56).to_bytes(8, "big") + bytes(rest)


def _with_display_size(video: bytes, aspect: Fraction) -> bytes:
    """Elements of a Video with a display size that is exact, where that isn't twice the picture's."""
    values = {ident: int.from_bytes(video[b:e], "big") for ident, b, e in children(video)}
    width = values[PIXEL_WIDTH] - values.get(CROP_LEFT, 0) - values.get(CROP_RIGHT, 0)
    height = values[PIXEL_HEIGHT] - values.get(CROP_TOP, 0) - values.get(CROP_BOTTOM, 0)
    width //= 2 if values.get(STEREO_MODE) in _HALF_WIDTH else 1
    height //= 2 if values.get(STEREO_MODE) in _HALF_HEIGHT else 1
    shape = Fraction(width, height) * aspect
    times = -(-height // shape.denominator)
    if times * shape.denominator <= 2 * height:
        width, height = times * shape.numerator, times * shape.denominator
    else:
        width = round(width * aspect)
    displayed = (DISPLAY_WIDTH, DISPLAY_HEIGHT, DISPLAY_UNIT)  # the unit is pixels unless told
    rest = b"".join(element(ident, video[b:e]) for ident, b, e in children(video) if ident not in displayed)
    return rest + unsigned(DISPLAY_WIDTH, width) + unsigned(DISPLAY_HEIGHT, height)
