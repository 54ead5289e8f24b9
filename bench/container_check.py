"""What became of each thing in a video: a verdict on the file before and after, and on what was warned of."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, NamedTuple

import av
import numpy as np

from bench.container_seen import Cue, Seen, Sound
from tests.outside import psnr

LEAST_PSNR, LARGEST_BIAS = 25.0, 1.5  # dB; codes of 255, the mean of a channel over the clip
_TICK = Fraction(2, 1000)  # seconds by which a container's own clock may be off
_LATEST_START = Fraction(13, 100)  # seconds: FLV and NUT begin later by what B-frames are decoded ahead
_CUE_STEP = 0.03  # seconds: ASS counts in hundredths, and Matroska moves all by the silence before AAC
_ASPECT_STEP = 0.5 / 128  # Matroska and WebM say a whole number of pixels, here of some 128
_SOUND_FRAME = Fraction(65, 1000)  # seconds; an encoder's first and last frame are whole


class Verdict(NamedTuple):
    """A word for the table ("kept", "converted", "dropped", "WRONG"; "" where there was nothing), and what was seen."""

    word: str
    seen: str = ""


@dataclass
class Case:
    """A file and what came out.

    Attributes:
        cut: the part asked for, in seconds from the first frame.
        begins_at_zero, has_lengths: of the output's container: its clock, and whether it says how long packets last.
        uncompressed: the container holds nothing else.
        tick: seconds by which sound that is copied may move.
    """

    before: Seen
    after: Seen
    warnings: Sequence[str]
    cut: tuple[Fraction, Fraction] | None = None
    begins_at_zero: bool = True
    has_lengths: bool = True
    uncompressed: bool = False
    tick: Fraction = _TICK
    expected: list[int] = field(init=False)

    def __post_init__(self) -> None:
        since = [at - self.before.times[0] for at in self.before.times]
        begin, end = self.cut or (Fraction(0), since[-1] + 1)
        self.expected = [index for index, at in enumerate(since) if begin <= at < end]

    def warned(self, pattern: str) -> bool:
        return any(re.search(pattern, line, re.I) for line in self.warnings)

    def changed(self, pattern: str, old: object, new: object, there: bool = True) -> Verdict:
        """The verdict on something that isn't as it was."""
        seen = f"{_short(old)} → {_short(new)}"
        return Verdict(("converted" if there else "dropped") if self.warned(pattern) else "WRONG", seen)


def _short(value: object) -> str:
    return f"{float(value):.4f}" if isinstance(value, Fraction) else str(value)[:160]


def _picture(case: Case) -> Verdict:
    before, after = case.before, case.after
    old, new = before.pixels[case.expected], after.pixels
    if len(old) != len(new):
        return case.changed("are repeated", f"{len(old)} frames", f"{len(new)}")
    if before.size != after.size:
        return case.changed("size|border", before.size, after.size)
    solid = old[..., 3:] > 128
    near = [psnr(a[..., :3] * s, b[..., :3] * s) for a, b, s in zip(old, new, solid, strict=True)]
    bias = np.abs(np.mean((old[..., :3].astype(float) - new[..., :3]) * solid, axis=(0, 1, 2))).max()
    if min(near) < LEAST_PSNR or bias > LARGEST_BIAS:
        return Verdict("WRONG", f"PSNR {min(near):.1f} dB, {bias:.1f} codes off ({before.codec} {before.pixel_format} "
                                f"→ {after.codec} {after.pixel_format})")  # fmt: skip
    if before.codec != after.codec:
        if case.uncompressed:
            return Verdict("converted")
        return case.changed("video is encoded with", before.codec, after.codec)
    if _loses(before.pixel_format, after.pixel_format):
        return case.changed("stored as|transparen", before.pixel_format, after.pixel_format)
    return Verdict("kept")


def _loses(old: str, new: str) -> bool:
    """Whether the pixel format `new` has fewer bits or less chroma; alpha is looked at by itself."""
    a, b = (av.VideoFormat(name, 64, 64) for name in (old, new))
    if a.has_palette or b.has_palette:
        return b.has_palette and not a.has_palette
    bits = [max(part.bits for part in pixels.components) for pixels in (a, b)]
    chroma = [pixels.chroma_width() * pixels.chroma_height() for pixels in (a, b)]
    coloured = len(a.components) > 2
    return bits[1] < bits[0] or coloured and (chroma[1] < chroma[0] or len(b.components) < 3)


def _times(case: Case) -> Verdict:
    """Frames where they were, the track's end one frame after the last, and the beginning."""
    before, after = case.before, case.after
    kept = [before.times[index] for index in case.expected]
    if len(kept) != len(after.times):
        return case.changed("are repeated", f"{len(kept)} frames", f"{len(after.times)}")
    off = max(abs((a - kept[0]) - (b - after.times[0])) for a, b in zip(kept, after.times, strict=True))
    if off > Fraction(1, 1999):
        return case.changed("timestamps|frames a second|begins at 0", Fraction(0), off)
    # MP4 stores steps of decoding, from which the last frame's duration follows only where all are equal.
    steps = [b - a for a, b in zip(kept, kept[1:], strict=False)]
    length = kept[-1] - kept[0] + (steps[-1] if steps else 0)
    if not case.cut and before.length is not None:
        length = before.length
    if case.has_lengths and after.length is not None and abs(after.length - length) > _TICK + max(steps) - min(steps):
        return Verdict("WRONG", f"the track lasts {float(after.length):.3f} s, not {float(length):.3f}")
    if case.begins_at_zero and abs(after.start) > _LATEST_START:
        return Verdict("WRONG", f"begins at {float(after.start):.3f} s")
    return Verdict("kept")


def _uneven(case: Case) -> Verdict:
    steps = {b - a for a, b in zip(case.before.times, case.before.times[1:], strict=False)}
    return _times(case) if steps and max(steps) - min(steps) > _TICK else Verdict("")


def _late(case: Case) -> Verdict:
    old, new = case.before.late, case.after.late
    if old is None or abs(old) < _SOUND_FRAME or new is None:
        return Verdict("")
    if abs(old - new) <= _SOUND_FRAME:  # the first packet of AAC isn't left out everywhere
        return Verdict("kept")
    return case.changed("timestamps|frames a second|begins at 0", old, new)


def _cut(case: Case) -> Verdict:
    """The frames that were asked for, no others, and sound as long."""
    times = _times(case)
    if times.word != "kept":
        return times
    old = case.before.pixels[..., :3].astype(np.float32)
    nearest = [int(np.argmin(((old - new[..., :3]) ** 2).mean(axis=(1, 2, 3)))) for new in case.after.pixels]
    if nearest != case.expected:
        return Verdict("WRONG", f"frames {nearest} for {case.expected}")
    for each in case.after.sounds:
        length = sum(unit.length for unit in each.blocks)
        if case.cut and abs(length - (case.cut[1] - case.cut[0])) > _SOUND_FRAME:
            return Verdict("WRONG", f"{float(length):.3f} s of sound")
    return Verdict("kept")


def _alpha(case: Case) -> Verdict:
    before, after = case.before, case.after
    if not before.has_alpha:
        return Verdict("")
    if before.size == after.size and after.has_alpha:
        off = np.abs(before.pixels[..., 3].astype(float) - after.pixels[..., 3]).mean()
        return Verdict("kept") if off < 3 else Verdict("WRONG", f"alpha is {off:.1f} codes off")
    if after.says_alpha:
        return Verdict("WRONG", "no transparency, and the tag alpha_mode=1")
    return case.changed("transparen", before.pixel_format, after.pixel_format, there=False)


def _plain(pattern: str, value: Callable[[Seen], Any], nothing: Sequence[Any]) -> Callable[[Case], Verdict]:
    """A judge of one value that has to be the same; `nothing` are the values that say nothing."""

    def judge(case: Case) -> Verdict:
        old, new = value(case.before), value(case.after)
        if old in nothing:
            return Verdict("") if new in nothing else case.changed(pattern, old, new)
        return Verdict("kept") if old == new else case.changed(pattern, old, new, there=new not in nothing)

    return judge


def _aspect(case: Case) -> Verdict:
    old, new = case.before.aspect, case.after.aspect
    if abs(old / new - 1) <= _ASPECT_STEP:
        return Verdict("" if old == 1 else "kept")
    return case.changed("aspect", old, new, there=new != 1)


def _range(case: Case) -> Verdict:
    """Full range, of what isn't R'G'B', which has no other."""
    before, after = case.before, case.after
    if before.colour.startswith("gbr") or _is_rgb(before.pixel_format) or before.range == after.range == "tv":
        return Verdict("")
    return Verdict("kept") if before.range == after.range else case.changed("range", before.range, after.range)


def _hdr10(case: Case) -> Verdict:
    old, new = case.before.hdr, case.after.hdr
    if not old:
        return Verdict("")
    same = len(old) == len(new) and np.allclose(old, new, rtol=0.002, atol=0.001)
    return Verdict("kept") if same else case.changed("HDR", old, new, there=bool(new))


def _is_rgb(pixel_format: str) -> bool:
    return av.VideoFormat(pixel_format, 64, 64).is_rgb


def _colour(case: Case) -> Verdict:
    old, new = case.before.colour.split(), case.after.colour.split()
    if _is_rgb(case.before.pixel_format):
        old[0] = "gbr"  # whatever a container says of its matrix
    if set(old) <= {"unknown", "gbr"}:
        return Verdict("")
    # A picture that is converted from R'G'B' has a matrix; that its pixels look the same is what matters.
    if all(b in (a, "gbr") for a, b in zip(old, new, strict=True) if a not in ("unknown", "gbr")):
        return Verdict("kept")
    return case.changed("colou?r", old, new, there=new != ["unknown"] * 3)


def _sound(case: Case) -> Verdict:
    before, after = case.before.sounds, case.after.sounds
    if not before:
        return Verdict("")
    if len(before) != len(after):
        return case.changed("audio stream", before[0].codec, "nothing", there=False)
    for index, (old, new) in enumerate(zip(before, after, strict=True)):
        # Matroska rounds blocks to milliseconds, and AVI's have no times of their own.
        lengths = min(
            ([each.length for each in (old, new)], [sum(unit.length for unit in each.blocks) for each in (old, new)]),
            key=lambda pair: abs(pair[0] - pair[1]),
        )
        # An encoder's first and last packet are whole, and not every container says how much of them to leave out.
        spare = _SOUND_FRAME + (2 * max(unit.length for unit in new.blocks) if old.codec != new.codec else 0)
        if not new.blocks or abs(lengths[0] - lengths[1]) > spare:
            return Verdict("WRONG", f"{_short(lengths[0])} s of {old.codec} → {_short(lengths[1])} s of {new.codec}")
        # MP4 has one name for MPEG's audio layers.
        same = {old.codec, new.codec} in ({old.codec}, {"mp2", "mp3"}) and _same_sound(old, new)
        # Of copied packets: some containers say how much of the decoded sound to leave out, others don't.
        begins = [(each.packets if same else each.blocks)[0].at for each in (old, new)]
        gaps = [seen.times[0] - at for seen, at in zip((case.before, case.after), begins, strict=True)]
        # An encoder's first packet, which says nothing yet, lies before; at 8 kHz AAC's has 0.128 s.
        spare = case.tick if same else max(case.tick, _SOUND_FRAME, *(unit.length for unit in new.blocks))
        if abs(gaps[0] - gaps[1]) > spare + _TICK:
            return case.changed("begins at 0", f"sound {index} of {new.codec}", f"{float(gaps[1] - gaps[0]):.3f} s off")
        if not same:
            return case.changed("audio stream", old.codec, new.codec)
    return Verdict("kept")


def _same_sound(old: Sound, new: Sound) -> bool:
    """The packets are the same, or most of what is decoded (AAC's packets differ by a header between containers)."""
    if [unit.check for unit in old.packets] == [unit.check for unit in new.packets]:
        return True
    checks = {unit.check for unit in new.blocks}
    return sum(unit.check in checks for unit in old.blocks) >= 0.8 * len(old.blocks)


def _captions(case: Case) -> Verdict:
    before, after = case.before.captions, case.after.captions
    if not before:
        return Verdict("")
    if len(before) != len(after):
        return case.changed("subtitle", before[0][0], "nothing", there=False)
    if not all(_same_cues(old, new) for (_, old), (_, new) in zip(before, after, strict=True)):
        return Verdict("WRONG", f"{before} → {after}"[:300])
    names = [[name for name, _ in each] for each in (before, after)]
    return Verdict("kept") if names[0] == names[1] else case.changed("subtitle", *names)


def _chapters(case: Case) -> Verdict:
    before, after = case.before.chapters, case.after.chapters
    if _same_cues(before, after):
        return Verdict("kept" if before else "")
    return case.changed("chapter", before, after, there=bool(after))


def _same_cues(old: Sequence[Cue], new: Sequence[Cue]) -> bool:
    if [cue.text for cue in old] != [cue.text for cue in new]:
        return False
    return np.allclose([cue[:2] for cue in old], [cue[:2] for cue in new], atol=_CUE_STEP)


JUDGES: dict[str, Callable[[Case], Verdict]] = {
    "picture": _picture,
    "times": _times,
    "variable rate": _uneven,
    "late start": _late,
    "cut": _cut,
    "alpha": _alpha,
    "pixel aspect": _aspect,
    "rotation": _plain("rotation|turned", lambda seen: seen.rotation, ("",)),
    "range": _range,
    "colour tags": _colour,
    "HDR10": _hdr10,
    "360°, stereo": _plain("360|spherical|stereo", lambda seen: seen.spherical, ([],)),
    "captions": _captions,
    "chapters": _chapters,
    "sound": _sound,
    "attachments": _plain("attachment|cover|video stream", lambda seen: seen.extras, ([],)),
}
