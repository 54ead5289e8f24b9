"""The clips that bench/containers.py runs: which containers hold which codecs, and a clip of each with all that fits.

Made by the ffmpeg program of imageio-ffmpeg. What a clip should hold and its container can't is left out by that
program; the reader of bench/container_check.py sees what is really there.
"""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path

from tests.outside import make

# Codec → how it is encoded; the pixel format last. Key frames every ten frames, so that a cut falls between them.
CODECS: dict[str, tuple[str, str]] = {
    "h264": ("-c:v libx264 -preset ultrafast -bf 2 -qp 12 -g 10", "yuv420p"),
    "hevc": ("-c:v libx265 -preset ultrafast -x265-params log-level=none:keyint=10:bframes=2:qp=12", "yuv420p"),
    "av1": ("-c:v libsvtav1 -preset 12 -crf 15 -g 10", "yuv420p"),
    "vp8": ("-c:v libvpx -threads 1 -cpu-used 8 -deadline realtime -b:v 4M -qmax 8 -g 10", "yuv420p"),
    "vp9": ("-c:v libvpx-vp9 -cpu-used 8 -deadline realtime -b:v 4M -qmax 8 -g 10", "yuv420p"),
    "mpeg4": ("-c:v mpeg4 -q:v 2 -bf 2 -g 10", "yuv420p"),
    "mpeg2video": ("-c:v mpeg2video -q:v 2 -bf 2 -g 10", "yuv420p"),
    "prores": ("-c:v prores_ks", "yuv422p10le"),
    "prores 4444": ("-c:v prores_ks -profile:v 4444", "yuv444p10le"),
    "dnxhr": ("-c:v dnxhd -profile:v dnxhr_hq", "yuv422p"),
    "dvvideo": ("-c:v dvvideo", "yuv420p"),
    "ffv1": ("-c:v ffv1 -level 3", "yuv422p"),
    "mjpeg": ("-c:v mjpeg -q:v 2 -strict -1", "yuv420p"),
    "rawvideo": ("-c:v rawvideo", "yuv420p"),
    "rawvideo rgb24": ("-c:v rawvideo", "rgb24"),
    "rawvideo bgr24": ("-c:v rawvideo", "bgr24"),
    "rawvideo yuyv": ("-c:v rawvideo", "yuyv422"),
    "qtrle": ("-c:v qtrle", "rgb24"),
    "png": ("-c:v png", "rgb24"),
    "gif": ("-c:v gif", "rgb8"),
    "apng": ("-c:v apng", "rgb24"),
}
# Containers by suffix, with the codecs that people have in them.
HOLDS = {
    ".mp4": ("h264", "hevc", "av1", "vp9", "mpeg4", "mpeg2video", "mjpeg"),
    ".mov": (
        *("h264", "hevc", "mpeg4", "mpeg2video", "prores", "prores 4444", "dnxhr", "dvvideo", "mjpeg"),
        *("rawvideo rgb24", "rawvideo yuyv", "qtrle", "png"),
    ),
    ".mkv": (
        *("h264", "hevc", "av1", "vp8", "vp9", "mpeg4", "mpeg2video", "prores", "prores 4444", "dnxhr", "dvvideo"),
        *("ffv1", "mjpeg", "rawvideo", "png"),
    ),
    ".webm": ("vp8", "vp9", "av1"),
    ".avi": ("h264", "mpeg4", "mpeg2video", "dvvideo", "ffv1", "mjpeg", "rawvideo", "rawvideo bgr24", "rawvideo yuyv"),
    ".ts": ("h264", "hevc", "mpeg4", "mpeg2video"),
    ".m2ts": ("h264", "hevc", "mpeg2video"),
    ".mpg": ("mpeg2video", "h264"),
    ".flv": ("h264", "hevc", "av1", "vp9"),
    ".3gp": ("h264", "mpeg4"),
    ".nut": ("h264", "mpeg4", "ffv1", "rawvideo", "rawvideo rgb24"),
    ".y4m": ("rawvideo",),
    ".gif": ("gif",),
    ".apng": ("apng",),
    ".dv": ("dvvideo",),
}
# What rtlit writes, one of each muxer and .m2ts, which has the muxer of .ts.
SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".ts", ".m2ts", ".mpg", ".flv", ".3gp", ".nut", ".y4m")
# Sound → how it is encoded, and a container that people have it in.
SOUNDS: dict[str, tuple[str, str]] = {
    "aac": ("-c:a aac", ".mp4"),
    "mp3": ("-c:a libmp3lame", ".mkv"),
    "mp2": ("-c:a mp2", ".mpg"),
    "ac3": ("-c:a ac3", ".mkv"),
    "ac3 5.1(side)": ("-c:a ac3 -ac 6 -channel_layout 5.1(side)", ".ts"),
    "opus": ("-c:a libopus -ar 48000", ".webm"),
    "vorbis": ("-c:a libvorbis -ac 2", ".webm"),
    "flac": ("-c:a flac", ".mkv"),
    "alac": ("-c:a alac", ".mov"),
    "pcm_s16le": ("-c:a pcm_s16le", ".mov"),
    "pcm_u8": ("-c:a pcm_u8", ".avi"),
    "wmav2": ("-c:a wmav2", ".wmv"),
    "adpcm_ms": ("-c:a adpcm_ms", ".avi"),
    "dts": ("-c:a dca -strict -2 -ar 48000 -ac 2", ".mkv"),
    "truehd": ("-c:a truehd -strict -2 -ar 48000 -ac 2", ".mkv"),
    "amr_nb": ("-c:a libopencore_amrnb -ar 8000 -ac 1", ".3gp"),
}
_SOUND_OF = {".webm": "opus", ".avi": "mp3", ".mpg": "mp2", ".nut": "pcm_s16le", ".mkv": "flac"}
_CAPTIONS_OF = {".mkv": "subrip", ".webm": "webvtt", **dict.fromkeys((".mp4", ".mov", ".3gp"), "mov_text")}
_SILENT = (".y4m", ".gif", ".apng", ".dv")
_ALPHA = {
    **dict.fromkeys(("vp8", "vp9", "ffv1"), "yuva420p"),
    **dict.fromkeys(("png", "apng"), "rgba"),
    **dict.fromkeys(("rawvideo rgb24", "rawvideo bgr24", "gif"), "bgra"),
    "prores 4444": "yuva444p10le",
    "qtrle": "argb",
}
_TEN_BIT = ("h264", "hevc", "av1", "vp9")
_SIZE = "128x96"
_SIZES = {"dvvideo": "720x576", "dnxhr": "256x128"}  # DV has one size, DNxHR a smallest one
# Soft, so that no codec loses more than a mistake would; every frame differs from its neighbours.
_PICTURE = "testsrc2=s={}:r=25:d=1,gblur=sigma=2,hue=b=0.8*sin(n)"
_TAGS = "setsar=4/3,setparams=range={}:colorspace={}:color_primaries={}:color_trc=smpte170m"
_UNEVEN = "7*mod(round({}*TB*25)\\,3)/1000/TB"
_TONE = ("-f", "lavfi", "-i", "sine=d=1")
_WORDS = "1\n00:00:00,120 --> 00:00:00,400\nGood evening\n\n2\n00:00:00,560 --> 00:00:00,920\nThe sun sets\n"
_CHAPTERS = """;FFMETADATA1
[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=480\ntitle=One
[CHAPTER]\nTIMEBASE=1/1000\nSTART=480\nEND=1000\ntitle=Two
"""
_HDR10 = (
    "log-level=none:bframes=0:colorprim=9:transfer=16:colormatrix=9:max-cll=1000,400:"
    "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1)"
)
# Google's box for a 360° video in MP4, version 1: what cameras' stitching programs write.
_SPHERICAL_BOX = bytes.fromhex("ffcc8263f8554a938814587a02521fdd")
_SPHERICAL = (
    '<?xml version="1.0"?><rdf:SphericalVideo xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" '
    'xmlns:GSpherical="http://ns.google.com/videos/1.0/spherical/">'
    "<GSpherical:Spherical>true</GSpherical:Spherical><GSpherical:Stitched>true</GSpherical:Stitched>"
    "<GSpherical:StitchingSoftware>rtlit</GSpherical:StitchingSoftware>"
    "<GSpherical:ProjectionType>equirectangular</GSpherical:ProjectionType>"
    "<GSpherical:StereoMode>left-right</GSpherical:StereoMode></rdf:SphericalVideo>"
)


def prepare(folder: Path) -> None:
    """Write what clips are made of: captions, chapters, a cover, an HDR10 and two spherical masters."""
    (folder / "words.srt").write_text(_WORDS)
    (folder / "chapters.txt").write_text(_CHAPTERS)
    make(folder / "cover.png", *_picture(), "-frames:v", "1")
    make(folder / "hdr10.mkv", *_picture(), "-pix_fmt", "yuv420p10le", "-c:v", "libx265", "-x265-params", _HDR10)
    for size in {_SIZE, *_SIZES.values()}:
        add_sphere(make(folder / f"360-{size}.mp4", *_picture(size), "-pix_fmt", "yuv420p"))


def make_clip(folder: Path, codec: str, suffix: str, kind: str) -> Path:
    """Write a clip of a second, unless it is there, into a prepared folder.

    Args:
        codec: a key of `CODECS`, or of `SOUNDS` for the kind "sound".
        suffix: says the container.
        kind: "all" (sound, captions, chapters, attachments, colour tags, full range, pixel aspect), "turned" (the same,
            turned by 90°), "uneven" (variable rate, the picture half a second after the sound), "alpha", "HDR10",
            "360°" or "sound".

    Raises:
        AssertionError: the ffmpeg program refuses it, or no one has such a thing.
    """
    path = folder / f"{re.sub(r'[^a-z0-9]+', '-', f'{codec} {kind}')}{suffix}"
    if not path.exists():
        part = path.with_stem(f"{path.stem}.{os.getpid()}")  # another process may make the same one
        make(part, *_arguments(folder, codec, suffix, kind))
        if kind == "360°" and suffix in (".mp4", ".mov"):
            add_sphere(part)
        os.replace(part, path)
    return path


def _arguments(folder: Path, codec: str, suffix: str, kind: str) -> list[object]:
    if kind == "sound":
        inside = {".webm": "vp8", ".mpg": "mpeg2video", ".wmv": "mpeg4"}.get(suffix, "h264")
        return [*_picture(), *_TONE, *CODECS[inside][0].split(), "-pix_fmt", "yuv420p", *SOUNDS[codec][0].split()]
    size, (encoder, pixels) = _SIZES.get(codec, _SIZE), CODECS[codec]
    video = encoder.split()
    if kind == "alpha":
        assert codec in _ALPHA, f"{codec} has no alpha"
        fade = "format=rgba,geq=r='r(X,Y)':g='g(X,Y)':b='b(X,Y)':a='255*gt(X,W/2)'"
        return [*_picture(size), "-vf", fade, *video, *(() if codec == "gif" else ("-pix_fmt", _ALPHA[codec]))]
    if kind == "HDR10":
        assert codec in _TEN_BIT, f"no one has HDR10 in {codec}"
        return ["-i", folder / "hdr10.mkv", *video, "-pix_fmt", "yuv420p10le"]
    if kind == "360°":
        assert suffix in (".mp4", ".mov", ".mkv", ".webm"), f"{suffix} has no place for it"
        if suffix in (".mp4", ".mov"):
            return [*_picture(size), *video, "-pix_fmt", pixels]
        if codec in ("h264", "hevc"):  # whose encoders would say it a second time, within the stream
            return ["-i", make_clip(folder, codec, ".mp4", kind), "-c", "copy"]
        return ["-i", folder / f"360-{size}.mp4", *video, "-pix_fmt", pixels]
    if kind in ("turned", "uneven"):
        whole = make_clip(folder, codec, suffix, "all")
        copy = ["-map", "0:v:0", "-map", f"{int(kind == 'uneven')}:a?", "-c", "copy"]
        if kind == "turned":
            return ["-display_rotation", "90", "-i", whole, *copy]
        steps = ":".join(f"{name}={name.upper()}+{_UNEVEN.format(name.upper())}" for name in ("pts", "dts"))
        return ["-itsoffset", "0.5", "-i", whole, "-i", whole, *copy, "-bsf:v", f"setts={steps}"]
    limited = codec in ("dvvideo", "prores", "prores 4444")
    colours = "bt709" if codec == "dnxhr" else "bt470bg"  # which its own header can say
    tags = f"format={pixels},{_TAGS.format('tv' if limited else 'pc', colours, colours)}"
    video += ["-vf", tags, "-pix_fmt", pixels]
    if suffix in _SILENT:
        return [*_picture(size), *video]
    inputs: list[object] = [*_picture(size), *_TONE, "-i", folder / "chapters.txt"]
    sound = SOUNDS[_SOUND_OF.get(suffix, "aac")][0]
    streams: list[object] = ["-map", "0", "-map", "1", "-map_chapters", "2", *sound.split()]
    if suffix in _CAPTIONS_OF:
        inputs += ["-i", folder / "words.srt"]
        streams += ["-map", "3", "-c:s", _CAPTIONS_OF[suffix]]
    if suffix == ".mp4":
        inputs += ["-i", folder / "cover.png"]
        streams += ["-map", "4", "-c:v:1", "png", "-disposition:v:1", "attached_pic"]
        video[video.index("-c:v")] = "-c:v:0"
        video[video.index("-vf")] = "-filter:v:0"
        video[video.index("-pix_fmt")] = "-pix_fmt:v:0"
    if suffix == ".mkv":
        streams += ["-attach", folder / "words.srt", "-metadata:s:t", "mimetype=text/plain"]
    return [*inputs, *streams, *video]


def _picture(size: str = _SIZE) -> tuple[str, ...]:
    return ("-f", "lavfi", "-i", _PICTURE.format(size))


def add_sphere(path: Path) -> None:
    """Put the box of a 360° camera, left and right eye side by side, at the end of an MP4's only track."""
    data, words = bytearray(path.read_bytes()), _SPHERICAL.encode()
    movie = data.rindex(b"moov") - 4
    track = data.index(b"trak", movie) - 4
    box = struct.pack(">I4s", 24 + len(words), b"uuid") + _SPHERICAL_BOX + words
    end = track + struct.unpack_from(">I", data, track)[0]
    data[end:end] = box
    for at in (movie, track):
        struct.pack_into(">I", data, at, struct.unpack_from(">I", data, at)[0] + len(box))
    path.write_bytes(data)
