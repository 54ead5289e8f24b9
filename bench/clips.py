"""Clips of any size and length, made from a real one."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

CLIP = Path(__file__).parent.parent / "examples" / "juggler.mp4"  # 1280×720, 247 frames


def scaled(clip: Path, width: int, height: int, frames: int, folder: Path) -> Path:
    """A clip of the given size and length made from a real one, which it repeats if need be."""
    import av

    result = folder / f"{width}x{height}x{frames}.mp4"
    with av.open(str(result), "w") as output:
        video = output.add_stream("libx264", rate=Fraction(30), options={"crf": "23", "preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        done = 0
        while done < frames:
            with av.open(str(clip)) as source:
                for frame in source.decode(video=0):
                    if done == frames:
                        break
                    picture = frame.reformat(width, height, "yuv420p", interpolation="FAST_BILINEAR")
                    picture.pts, picture.time_base, picture.pict_type = done, Fraction(1, 30), 0
                    output.mux(video.encode(picture))
                    done += 1
        output.mux(video.encode(None))
    return result
