"""Run clips through enhance_video and compare each result with its input by ffprobe and ffmpeg.

    python bench/check_clips.py FOLDER [--keep FOLDER] [NAME…]

Prints a Markdown table, a row a clip: frames, what is the same, what differs, the warnings, or the one-line error.
Needs the ffmpeg and ffprobe programs, which are not what rtlit itself uses.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rtlit.errors import RtlitError
from rtlit.video.formats import output_suffix
from rtlit.video.probe import choose_video
from rtlit.video.transcode import VideoSettings, enhance_video

VIDEO_FIELDS = [
    "width",
    "height",
    "pix_fmt",
    "sample_aspect_ratio",
    "color_range",
    "color_space",
    "color_transfer",
    "color_primaries",
    "chroma_location",
    "field_order",
    "time_base",
]
UNTOLD = {None, "unknown", "unspecified", "N/A", "0:1", "1:1", "progressive"}
# The muxer's own marks; data about the codec's buffers; Dolby Vision is compared with the first frame's data.
IGNORED_TAGS = {"encoder", "software", "major_brand", "minor_version", "compatible_brands", "duration", "vendor_id"}
SPARE_SIDE_DATA = {"CPB properties", "DOVI configuration record"}


def probe(path: Path, *entries: str) -> dict[str, Any]:
    """ffprobe's answer as a dictionary."""
    command = ["ffprobe", "-v", "quiet", "-print_format", "json", "-show_data_hash", "md5", *entries, str(path)]
    return json.loads(subprocess.run(command, capture_output=True, check=False).stdout or "{}")


def packet_hash(path: Path, index: int) -> str:
    """Hash of all packets of a stream, as stored."""
    command = ["ffmpeg", "-v", "quiet", "-i", str(path), "-map", f"0:{index}", "-c", "copy", "-f", "md5", "-"]
    return subprocess.run(command, capture_output=True, check=False).stdout.decode().strip()


def frames(path: Path, index: int) -> list[float]:
    """When each decoded frame is shown, in seconds."""
    found = probe(path, "-select_streams", str(index), "-show_entries", "frame=pts_time").get("frames", [])
    return [float(frame.get("pts_time", "nan")) for frame in found]


def first_frame(path: Path, index: int) -> list[str]:
    """Kinds of side data of the first frame, mastering metadata with its values."""
    found = probe(path, "-select_streams", str(index), "-read_intervals", "%+#1", "-show_frames").get("frames", [{}])
    data = [d for d in (found or [{}])[0].get("side_data_list", []) if "H.26[45] User Data" not in d["side_data_type"]]
    dynamic = [d["side_data_type"] for d in data if "Dolby" in d["side_data_type"] or "2094" in d["side_data_type"]]
    return sorted([*(json.dumps(d) for d in data if d["side_data_type"] not in dynamic), *dynamic])


def compare_times(before: Path, after: Path, index: int, other: int) -> list[str]:
    """What differs in frame count and timestamps."""
    old, new = frames(before, index), frames(after, other)
    if len(old) != len(new):
        return [f"{len(new)} frames for {len(old)}"]
    differences = []
    off = max((abs(a - b) for a, b in zip(old, new, strict=True)), default=0)
    if off > 2e-6:
        differences.append(f"pts off by up to {1000 * off:.3f} ms")
    return differences


def tags(stream: dict[str, Any]) -> dict[str, str]:
    """Tags that should stay."""
    skip = ("BPS", "NUMBER_OF", "_STATISTICS", "SOURCE_ID", "DURATION-")
    kept = {k.lower(): v for k, v in stream.get("tags", {}).items() if not k.upper().startswith(skip)}
    return {k: spelled(v) for k, v in kept.items() if k not in IGNORED_TAGS and (k, v) != ("language", "und")}


def spelled(value: str) -> str:
    """A tag's value with one spelling for a place (ISO 6709) and for a time (ISO 8601)."""
    place = re.fullmatch(r"([+-]\d+\.\d+)([+-]\d+\.\d+)/?", value)
    when = re.fullmatch(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(\.0+)?Z?", value)
    return f"{float(place[1])} {float(place[2])}" if place else f"{when[1]} {when[2]}" if when else value


def changed(name: str, old: Any, new: Any) -> list[str]:
    """One line if a value changed, with both values."""
    if old == new or (old in UNTOLD and new in UNTOLD if not isinstance(old, (dict, list)) else False):
        return []
    if isinstance(old, dict) and isinstance(new, dict):
        return [line for key in sorted({*old, *new}) for line in changed(f"{name} {key}", old.get(key), new.get(key))]
    return [f"{name} {old} → {new}"]


def compare_streams(before: Path, after: Path, enhanced: int) -> list[str]:
    """What differs between the streams, one by one."""
    show = ("-show_streams", "-show_format", "-show_chapters")
    old, new = probe(before, *show), probe(after, *show)
    lines = []
    left, right = old["streams"], list(new.get("streams", []))
    for a in left:
        kind = a["codec_type"]
        b = next((s for s in right if s["codec_type"] == kind), None)
        label = f"{kind} {a['index']}"
        if b is None:
            lines.append(f"{label} ({a.get('codec_name', a.get('codec_tag_string'))}) is missing")
            continue
        right.remove(b)
        lines += changed(f"{label} disposition", a["disposition"], b["disposition"])
        lines += changed(f"{label} tag", tags(a), tags(b))
        lines += changed(f"{label} codec", a.get("codec_name"), b.get("codec_name"))
        if a["index"] == enhanced:
            for field in VIDEO_FIELDS:
                lines += changed(field, a.get(field), b.get(field))
            sides = [
                [d for d in s.get("side_data_list", []) if d["side_data_type"] not in SPARE_SIDE_DATA] for s in (a, b)
            ]
            lines += changed("side data", *sides)
            lines += changed("start", a.get("start_time"), b.get("start_time"))
            lines += changed("stream duration", *(round(float(s.get("duration", 0)), 4) for s in (a, b)))
            frame_data = [set(first_frame(p, s["index"])) for p, s in ((before, a), (after, b))]
            lines += [f"frames lost their {kind}" for kind in sorted(frame_data[0] - frame_data[1])]
            lines += [f"frames gained {kind}" for kind in sorted(frame_data[1] - frame_data[0])]
            lines += compare_times(before, after, a["index"], b["index"])
        elif kind == "attachment":
            lines += changed(f"{label} data", a.get("extradata_hash"), b.get("extradata_hash"))
        elif packet_hash(before, a["index"]) != packet_hash(after, b["index"]):
            lines.append(f"{label} packets differ")
    lines += [f"extra {s['codec_type']} ({s.get('codec_name')})" for s in right]
    marks = [[(c["start_time"], c["end_time"], c.get("tags")) for c in p.get("chapters", [])] for p in (old, new)]
    lines += changed("chapters", *marks)
    lines += changed("file tag", tags(old["format"]), tags(new["format"]))
    length = abs(float(old["format"].get("duration", 0)) - float(new["format"].get("duration", 0)))
    if length > 0.0015:
        lines.append(f"duration {old['format'].get('duration')} → {new['format'].get('duration')}")
    return lines


def best_video(path: Path) -> int:
    """Index of the stream that rtlit enhances."""
    import av

    with av.open(str(path)) as container:
        return choose_video(container, path.name).index


def check(path: Path, folder: Path) -> tuple[str, str, str]:
    """(frames, comparison, warnings) of one clip."""
    result = folder / f"{path.stem}.enhanced{output_suffix(path)}"
    try:
        report = enhance_video(path, result, video=VideoSettings(overwrite=True))
    except RtlitError as error:
        left = [p.name for p in folder.iterdir() if path.stem in p.name]
        return "–", f"error: {str(error).replace(str(path.parent) + '/', '')}" + (f"; left {left}" if left else ""), ""
    lines = compare_streams(path, result, best_video(path))
    return str(report.frames), "; ".join(lines) or "same", "; ".join(report.warnings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--keep", type=Path, help="keep the results here")
    arguments = parser.parse_args()
    clips = sorted(p for p in arguments.folder.iterdir() if p.is_file() and p.suffix != ".csv")
    print("| clip | frames | against the input | warnings |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.keep or Path(scratch)
        folder.mkdir(exist_ok=True)
        for clip in clips:
            if not arguments.names or any(name in clip.name for name in arguments.names):
                print("|", " | ".join((clip.name, *check(clip, folder))), "|", flush=True)
                print(clip.name, file=sys.stderr)


if __name__ == "__main__":
    main()
