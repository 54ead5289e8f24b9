"""What picture files hold beside the picture: found in their bytes, and its announcements taken out of the XMP."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator

PNG = b"\x89PNG\r\n\x1a\n"
# PNG chunks that say how the codes are meant (PNG 3rd edition 11.3.2); libvips writes none of these.
_COLOR_CHUNKS = (b"cHRM", b"gAMA", b"sRGB", b"cICP", b"mDCV", b"cLLI")
_GAIN_MAP = (
    b"http://ns.adobe.com/hdr-gain-map/1.0/",  # Ultra HDR
    b"urn:iso:std:iso:ts:21496:-1",
    b"urn:com:apple:photo:2020:aux:hdrgainmap",
    b"http://ns.apple.com/HDRGainMap/1.0/",
)
_DEPTH = (
    b"http://ns.google.com/photos/1.0/depthmap/",
    b"http://ns.google.com/photos/dd/1.0/device/",
    b"urn:mpeg:hevc:2015:auxid:2",
    b"urn:mpeg:mpegB:cicp:systems:auxiliary:depth",
)
_MOTION = re.compile(rb"MotionPhoto_Data|MotionPhoto=[\"']1|MicroVideo=[\"']1|<\w+:(?:MotionPhoto|MicroVideo)>1<")
_VIDEO = re.compile(rb"\0\0\0[\x10-\x40]ftyp[\w ]{4}")  # an MP4 behind the picture
_HDR = {16: "PQ", 18: "HLG"}  # transfer characteristics of ITU-T H.273
_NCLX = re.compile(rb"colrnclx..(..)", re.DOTALL)
_SEQUENCES = (b"avis", b"msf1", b"hevs")  # brands of ISO/IEC 23008-12: a film rather than a picture
_PREVIEWS = (0x010001, 0x010002)  # MPF's types of pictures that show the first one smaller (CIPA DC-007 5.2.3.3)
KNOWN = "JPEG, PNG, WebP, TIFF, AVIF or GIF"
# How files of other kinds begin, which people have under any suffix.
_FOREIGN = {
    rb"....ftyp(?:hei|hev|mif1|msf1)": "a HEIC picture, which can't be read here; convert it to JPEG or PNG",
    rb"\xff\x0a|\0\0\0\x0cJXL ": "a JPEG XL picture; convert it to JPEG or PNG",
    rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51": "a JPEG 2000 picture; convert it to TIFF or PNG",
    rb"....ftyp|\x1a\x45\xdf\xa3|RIFF....AVI ": "a video; use enhance-video",
    rb"%PDF": "a PDF; save its page as PNG",
    rb"(?:\xef\xbb\xbf)?\s*(?:<[?!].*?>\s*)*<svg": "an SVG drawing; save it as PNG",
    rb"BM": "a BMP picture; convert it to PNG",
    rb"8BPS": "a Photoshop file; save it as TIFF or PNG",
    rb"P[1-7f]\s|#\?RADIANCE|\x76\x2f\x31\x01|\0\0\x01\0": f"no {KNOWN}; convert it to PNG or TIFF",
}
# What TIFF holds of a picture's origin in tags of its own (TIFF 6.0, Exif 3.0 4.6.3); libvips passes none of it on.
_TIFF_TAGS = {
    271: "the maker",
    272: "the model",
    306: "the date",
    315: "the artist",
    33432: "the copyright",
    34665: "EXIF",
    34853: "GPS",
}
# XMP namespaces of what is lost → the names in them that announce it.
_ANNOUNCED = {
    "http://ns.adobe.com/hdr-gain-map/1.0/": r"\w+",
    "http://ns.apple.com/HDRGainMap/1.0/": r"\w+",
    "http://ns.apple.com/pixeldatainfo/1.0/": r"\w+",
    "http://ns.google.com/photos/1.0/container/": r"\w+",
    "http://ns.google.com/photos/1.0/container/item/": r"\w+",
    "http://ns.google.com/photos/1.0/camera/": r"(?:MicroVideo|MotionPhoto)\w*",
    "http://ns.google.com/photos/1.0/depthmap/": r"\w+",
    "http://ns.google.com/photos/1.0/image/": r"\w+",
    "http://ns.google.com/photos/1.0/audio/": r"\w+",
    "http://ns.google.com/photos/dd/1.0/device/": r"\w+",
    "http://ns.adobe.com/xmp/note/": "HasExtendedXMP",
}


def frames(data: bytes) -> int:
    """How many pictures an animation holds that libvips takes for a still; 1 for any other file."""
    found = dict(_chunks(data)).get(b"acTL", b"") if data.startswith(PNG) else b""
    return max(1, struct.unpack(">I", found[:4])[0]) if len(found) >= 4 else 1


def is_sequence(data: bytes) -> bool:
    """Whether it is an animated AVIF or HEIF."""
    return data[4:8] == b"ftyp" and data[8:12] in _SEQUENCES


def foreign(data: bytes) -> str | None:
    """What a file of another kind is, and what to do with it; None of one that isn't known."""
    head = data[:4096]
    return next((what for begin, what in _FOREIGN.items() if re.match(begin, head, re.DOTALL)), None)


def lost(data: bytes) -> list[str]:
    """What the file holds beside the picture and no saver keeps, in words."""
    found = []
    others = _other_pictures(data)
    if any(mark in data for mark in _GAIN_MAP) or data[4:8] == b"ftyp" and b"tmap" in data[:4096]:
        found.append("the HDR gain map")
        others -= 1
    if _MOTION.search(data) or _VIDEO.search(data, 32):
        found.append("the motion photo's video")
    if any(mark in data for mark in _DEPTH):
        found.append("the depth map")
    if others > 0:
        found.append("the second picture (MPO)" if others == 1 else f"{others} further pictures (MPO)")
    elif b"http://ns.adobe.com/xmp/extension/\0" in data and not found:
        found.append("extended XMP")
    if data[4:8] == b"ftyp" and (tag := _NCLX.search(data, 0, 1 << 16)):
        transfer = _HDR.get(int.from_bytes(tag[1], "big"))
        found += [f"the HDR colour tag ({transfer})"] if transfer else []
    return found


def without_announcements(xmp: bytes) -> bytes:
    """An XMP packet that no longer speaks of gain maps, videos, depth maps and further pictures."""
    text = xmp.decode("utf-8", "surrogateescape")
    for space, names in _ANNOUNCED.items():
        for declared in set(re.findall(rf"xmlns:([\w.-]+)\s*=\s*[\"']{re.escape(space)}[\"']", text)):
            prefix = re.escape(declared)
            text = re.sub(rf"\s+{prefix}:{names}\s*=\s*(?:\"[^\"]*\"|'[^']*')", "", text)
            text = re.sub(rf"<({prefix}:{names})(?:\s[^>]*)?(?:/>|>.*?</\1\s*>)\s*", "", text, flags=re.DOTALL)
            if not re.search(rf"[<\s/]{prefix}:\w", text):
                text = re.sub(rf"\s+xmlns:{prefix}\s*=\s*[\"']{re.escape(space)}[\"']", "", text)
    return text.encode("utf-8", "surrogateescape")


def with_color(result: bytes, source: bytes) -> bytes:
    """A PNG with those chunks of another PNG that say how its codes are meant."""
    if not (result.startswith(PNG) and source.startswith(PNG)):
        return result
    there = {kind for kind, _ in _chunks(result)}
    if b"iCCP" in there:
        return result
    added = b""
    for kind, body in _chunks(source):
        if kind in _COLOR_CHUNKS and kind not in there:
            added += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    end = len(PNG) + 25  # IHDR: 12 bytes around 13
    return result[:end] + added + result[end:]


def color_lost(result: bytes, source: bytes) -> list[str]:
    """The HDR tag of a PNG that went into another format."""
    if not source.startswith(PNG) or result.startswith(PNG):
        return []
    tag = dict(_chunks(source)).get(b"cICP", b"\0\0")
    return [f"the HDR colour tag ({_HDR[tag[1]]})"] if tag[1] in _HDR else []


def tags_lost(result: bytes, source: bytes) -> list[str]:
    """What a TIFF says of its origin and the result doesn't."""
    return [_TIFF_TAGS[tag] for tag in sorted(_tiff_tags(source) - _tiff_tags(result))]


def _tiff_tags(data: bytes) -> set[int]:
    """Which of `_TIFF_TAGS` the first picture of a TIFF has."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None:
        return set()
    try:
        (start,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, start)
        entries = range(start + 2, start + 2 + 12 * count, 12)
        return {struct.unpack_from(f"{order}H", data, entry)[0] for entry in entries} & _TIFF_TAGS.keys()
    except struct.error:
        return set()


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and contents of a PNG's chunks, as far as the pixels."""
    at = len(PNG)
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"IDAT":
            return
        yield kind, data[at + 8 : at + 8 + size]
        at += 12 + size


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and contents of a JPEG's segments, as far as the pixels."""
    at = 2
    while data[:2] == b"\xff\xd8" and at + 4 <= len(data) and data[at] == 0xFF:
        marker, size = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xDA:
            return
        yield marker, data[at + 4 : at + 2 + size]
        at += 2 + size


def _other_pictures(data: bytes) -> int:
    """How many pictures a JPEG's MPF segment lists beside the first, smaller copies of it aside."""
    for marker, body in _segments(data):
        if marker != 0xE2 or not body.startswith(b"MPF\0"):
            continue
        try:
            return _listed(body[4:])
        except (struct.error, IndexError):
            return 0
    return 0


def _listed(mpf: bytes) -> int:
    """The same of the segment's contents, a TIFF structure: tag 0xB002 has 16 bytes a picture (CIPA DC-007 5.2.3)."""
    order = "<" if mpf[:2] == b"II" else ">"
    (start,) = struct.unpack_from(f"{order}I", mpf, 4)
    (count,) = struct.unpack_from(f"{order}H", mpf, start)
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        tag, _, size, at = struct.unpack_from(f"{order}HHII", mpf, entry)
        if tag == 0xB002:
            kinds = [struct.unpack_from(f"{order}I", mpf, at + i)[0] & 0xFFFFFF for i in range(0, size, 16)]
            return sum(kind not in _PREVIEWS for kind in kinds[1:])
    return 0
