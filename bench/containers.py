"""What becomes of everything in a video: containers × codecs × properties, each cell a real run, as docs/containers.md.

    python bench/containers.py --write                           # docs/containers.md; five minutes on two cores
    python bench/containers.py --only .avi sound                 # runs whose name holds one of these words; prints
    python bench/containers.py --clips FOLDER [--keep FOLDER]    # a row for each clip of a folder, real ones

Clips are made, and results read, by the ffmpeg program of imageio-ffmpeg, which is another FFmpeg than rtlit's. A cell
is "kept" only where that program finds the same, "converted" or "dropped" only where a warning says so, and else
"WRONG", or "fails" where there is no result; either makes the exit code 1 and stands on standard error.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from subprocess import TimeoutExpired

ROOT = Path(__file__).parent.parent
sys.path[:0] = [path for path in (str(ROOT), str(ROOT / "kernels")) if path not in sys.path]

import av  # noqa: E402

from bench.container_check import JUDGES, Case, Verdict  # noqa: E402
from bench.container_clips import CODECS, HOLDS, SOUNDS, SUFFIXES, make_clip, prepare  # noqa: E402
from bench.container_seen import Seen, look  # noqa: E402
from rtlit.errors import RtlitError  # noqa: E402
from rtlit.video.formats import output_suffix  # noqa: E402
from rtlit.video.transcode import VideoSettings, enhance_video  # noqa: E402

PAGE = ROOT / "docs" / "containers.md"
CUT = (Fraction(48, 100), Fraction(92, 100))  # seconds: between two key frames, and over one
_TIMELESS = (".ts", ".m2ts", ".mpg")  # whose clocks begin anywhere
# The clip that shows a property; the others are seen in "all".
_KIND = {
    "rotation": "turned",
    **dict.fromkeys(("variable rate", "late start"), "uneven"),
    "cut": "cut",
    "alpha": "alpha",
    "HDR10": "HDR10",
    "360°, stereo": "360°",
}
_KINDS = ("all", *dict.fromkeys(_KIND.values()))
PICTURE = ("picture", "alpha", "pixel aspect", "rotation", "range", "colour tags", "HDR10", "360°, stereo")
TIME = ("times", "variable rate", "late start", "cut")
BESIDE = ("sound", "captions", "chapters", "attachments")


@dataclass(frozen=True)
class Job:
    """A run: which clip, into which container, and where its cells stand."""

    table: str
    row: str
    column: str
    codec: str
    source: str
    target: str
    kind: str

    @property
    def name(self) -> str:
        return f"{self.codec} {self.source} ({self.kind}) → {self.target}"


def jobs() -> Iterator[Job]:
    """All runs, in the order of the page."""
    for source, codecs in HOLDS.items():
        for codec in codecs:
            target = output_suffix(Path(f"a{source}"))
            row = f"{source} {codec}" + (f" → {target}" if target != source else "")
            for kind in _KINDS:
                yield Job("kept", row, kind, codec, source, target, kind)
    for codec in CODECS:
        source = next(suffix for suffix, codecs in HOLDS.items() if codec in codecs)
        for target in SUFFIXES:
            yield Job("codecs", f"{codec} ({source})", target, codec, source, target, "all")
    for source, codec in ((".mkv", "h264"), (".mp4", "hevc"), (".ts", "h264"), (".webm", "vp9")):
        for target in SUFFIXES:
            for kind in _KINDS:
                yield Job("moved", source, target, codec, source, target, kind)
    for name, (_, home) in SOUNDS.items():
        for target in SUFFIXES[:-1]:
            yield Job("sound in", name, target, name, target, target, "sound")
            yield Job("sound from", f"{name} ({home})", target, name, home, target, "sound")


def run(job: Job, folder: Path) -> dict[str, Verdict]:
    """The cells of a job by their properties; none where the ffmpeg program can't make such a clip."""
    try:
        source = source_of(job, folder)
    except (AssertionError, TimeoutExpired):
        if job.kind == "all":
            raise
        return {}
    try:
        before = _look(source)
    except AssertionError as error:
        if job.kind == "all":
            raise RuntimeError(f"{source.name}: {error}") from None
        return {}  # the program writes it and can't read it: WMA in MOV
    if job.kind == "sound" and [each.codec for each in before.sounds] != [job.codec.split()[0]]:
        return {}  # the container has it as something else
    cut = CUT if job.kind == "cut" else None
    target = folder / f"{os.getpid()}{job.target}"
    cells = judge(source, before, target, cut)
    return {name: cells[name] for name in _columns(job) if cells[name].word}


def source_of(job: Job, folder: Path) -> Path:
    """The clip of a job, made if it isn't there."""
    return make_clip(folder, job.codec, job.source, "all" if job.kind == "cut" else job.kind)


@lru_cache(maxsize=3)  # jobs of a clip follow one another
def _look(path: Path) -> Seen:
    return look(path)


def judge(source: Path, before: Seen, target: Path, cut: tuple[Fraction, Fraction] | None) -> dict[str, Verdict]:
    """Run a clip at strength 0 and look at the result."""
    part = {"start": float(cut[0]), "duration": float(cut[1] - cut[0])} if cut else {}
    try:
        # libvpx's threads wait for each other in a loop: with as many processes as cores, for minutes.
        video = VideoSettings(overwrite=True, options=(("threads", "1"),), **part)
        report = enhance_video(source, target, strength=0.0, device="cpu", threads=1, video=video)
    except RtlitError as error:
        return dict.fromkeys(JUDGES, Verdict("fails", str(error).replace(f"{target.parent}/", "")))
    except Exception as error:  # a traceback is a finding, too
        return dict.fromkeys(JUDGES, Verdict("fails", f"{type(error).__name__}: {error}"))
    try:
        after = look(target)
    except AssertionError as error:
        return dict.fromkeys(JUDGES, Verdict("WRONG", f"unreadable: {str(error)[-200:]}"))
    zero = target.suffix not in _TIMELESS and (source.suffix in _TIMELESS or abs(before.start) < Fraction(1, 20))
    lengths, raw = target.suffix not in (*_TIMELESS, ".flv"), target.suffix == ".y4m"
    # AVI counts frames, from 0; and libavcodec shows those of an AVI with B-frames up to two frames late.
    tick = Fraction(45 + 80 * (source.suffix == ".avi"), 1000) if target.suffix == ".avi" else Fraction(2, 1000)
    case = Case(before, after, report.warnings, cut, zero, lengths, raw, tick)
    verdicts = {name: judged(case) for name, judged in JUDGES.items()}
    remark = "; ".join(report.warnings) or "no warning"
    return {
        name: verdict._replace(seen=f"{verdict.seen} ({remark})") if verdict.word == "WRONG" else verdict
        for name, verdict in verdicts.items()
    }


def _in_folder(job: Job, folder: Path) -> dict[str, Verdict]:
    try:
        return run(job, folder)
    finally:
        (folder / f"{os.getpid()}{job.target}").unlink(missing_ok=True)


def run_all(chosen: list[Job], folder: Path) -> dict[Job, dict[str, Verdict]]:
    """All jobs, as many at a time as there are cores; clips are made first, each once."""
    prepare(folder)
    sources = {(job.codec, job.source, job.kind): job for job in reversed(chosen) if job.kind != "cut"}
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        list(pool.map(_make, sources.values(), [folder] * len(sources), chunksize=4))
    part = -(-len(chosen) // (4 * (os.cpu_count() or 1)))  # small enough that no core waits long at the end
    groups = [chosen[begin : begin + part] for begin in range(0, len(chosen), part)]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        found = threads.map(_in_a_process, groups, [folder] * len(groups))
        return {job: cells for group in found for job, cells in group.items()}


def _in_a_process(group: list[Job], folder: Path) -> dict[Job, dict[str, Verdict]]:
    """Runs of a group in a process of its own, in a new one after each crash of a library."""
    results: dict[Job, dict[str, Verdict]] = {}
    while len(results) < len(group):
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            for job in group[len(results) :]:
                try:
                    results[job] = pool.submit(_in_folder, job, folder).result()
                except BrokenProcessPool:
                    results[job] = dict.fromkeys(_columns(job), Verdict("fails", "the process crashed"))
                _complain(job, results[job])
                if "crashed" in str(results[job]):
                    break
    return results


def _columns(job: Job) -> list[str]:
    return ["sound"] if job.kind == "sound" else [name for name in JUDGES if _KIND.get(name, "all") == job.kind]


def _complain(job: Job, cells: Mapping[str, Verdict]) -> None:
    for seen in dict.fromkeys(cell.seen for cell in cells.values() if is_wrong(cell)):  # a failure has many cells
        names = ", ".join(name for name, cell in cells.items() if cell.seen == seen)
        print(f"WRONG: {job.table}: {job.name}: {names}: {seen}", file=sys.stderr, flush=True)


def _make(job: Job, folder: Path) -> None:
    try:
        source_of(job, folder)
    except (AssertionError, TimeoutExpired):
        if job.kind == "all":
            raise


def table(head: Iterable[str], rows: Mapping[str, Mapping[str, str]]) -> str:
    """Markdown; columns without a cell are left out."""
    columns = [name for name in head if any(row.get(name) for row in rows.values())]
    lines = [f"| | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    lines += [f"| {name} | {' | '.join(row.get(column) or '–' for column in columns)} |" for name, row in rows.items()]
    return "\n".join(lines)


def _grid(results: Mapping[Job, Mapping[str, Verdict]], name: str, wanted: Iterable[str]) -> dict[str, dict[str, str]]:
    """Row → property → word."""
    rows: dict[str, dict[str, str]] = {}
    for job, cells in results.items():
        if job.table == name:
            found = {prop: cell.word for prop, cell in cells.items() if prop in wanted}
            rows.setdefault(job.row, {}).update(found)
    return rows


def _by_target(
    results: Mapping[Job, Mapping[str, Verdict]], name: str, wanted: Iterable[str], by_property: bool
) -> dict[str, dict[str, str]]:
    """Row (and property) → container → word; several properties in one cell are as bad as the worst of them."""
    rows: dict[str, dict[str, str]] = {}
    for job, cells in results.items():
        for prop in wanted if job.table == name else ():
            row = rows.setdefault(f"{job.row}: {prop}" if by_property else job.row, {})
            if prop in cells:
                row[job.column] = cells[prop].word
    return {row: cells for row, cells in rows.items() if cells}


def page(results: Mapping[Job, Mapping[str, Verdict]]) -> str:
    """The page as Markdown."""
    versions = f"PyAV {av.__version__}, FFmpeg {av.ffmpeg_version_info}"
    kept = [(title, table(names, _grid(results, "kept", names))) for title, names in _GROUPS.items()]
    return "\n".join(
        [
            INTRODUCTION.format(versions=versions),
            "## The container stays the same\n",
            *(f"### {title}\n\n{text}\n" for title, text in kept),
            MOVED,
            "### What else is in the file\n",
            table(SUFFIXES, _by_target(results, "moved", JUDGES, by_property=True)),
            "\n### The codec of the picture\n",
            table(SUFFIXES, _by_target(results, "codecs", ("picture",), by_property=False)),
            "\n## Sound\n\nIn the same container:\n",
            table(SUFFIXES, _by_target(results, "sound in", ("sound",), by_property=False)),
            "\nFrom the container in brackets into others:\n",
            table(SUFFIXES, _by_target(results, "sound from", ("sound",), by_property=False)),
            "",
        ]
    )


_GROUPS = {"The picture": PICTURE, "Time": TIME, "What is beside it": BESIDE}
INTRODUCTION = """# What is kept

You have a video in some container: what of it is still there in the result? Every word below was measured: a clip was
made, run through `rtlit enhance-video --strength 0`, and read by another FFmpeg than rtlit's own. The tables are those
of {versions}.

- **kept**: the same as in the input. Pictures are encoded anew, so for them it means the same codec, as many bits, as
  much chroma, and no frame below 25 dB PSNR, and no channel more than 1.5 codes brighter or darker.
- **converted**: the container can't hold it as it was; it is there in another form, and a line of warning says so.
- **dropped**: it can't hold it in any form; a line of warning says so.
- **–**: there is nothing of the kind in such a file.

```sh
python bench/containers.py --write     # makes this page; its exit code is 1 if anything changes without a warning
```
"""
MOVED = """## Into another container

`rtlit enhance-video in.mkv -o out.mp4`: a row says what was in which input, a column the output's container.
"""


def clips(folder: Path, keep: Path | None) -> int:
    """One row for each clip of a folder, with what is wrong under the table; returns how many cells are."""
    rows, wrong = {}, []
    with tempfile.TemporaryDirectory() as scratch:
        results = keep or Path(scratch)
        results.mkdir(exist_ok=True)
        for path in sorted(path for path in folder.iterdir() if path.is_file() and path.suffix != ".csv"):
            target = results / f"{path.stem}.enhanced{output_suffix(path)}"
            try:
                cells = judge(path, look(path), target, None)
            except (AssertionError, IndexError, ValueError):
                cells = {"picture": Verdict("unreadable")}
            rows[path.name] = {name: cell.word for name, cell in cells.items() if name != "cut"}
            wrong += [f"{path.name}: {name}: {cell.seen}" for name, cell in cells.items() if is_wrong(cell)]
            print(path.name, file=sys.stderr)
    print(table(JUDGES, rows), *wrong, sep="\n")
    return len(wrong)


def is_wrong(cell: Verdict) -> bool:
    return cell.word in ("WRONG", "fails")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="into docs/containers.md, not to standard output")
    parser.add_argument("--only", nargs="+", default=[""], metavar="WORD", help="runs whose name holds one of these")
    parser.add_argument("--clips", type=Path, metavar="FOLDER", help="real clips in place of made ones")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the results of these here")
    given = parser.parse_args()
    if given.clips:
        sys.exit(min(1, clips(given.clips, given.keep)))
    chosen = [job for job in jobs() if any(word in f"{job.table} {job.name}" for word in given.only)]
    with tempfile.TemporaryDirectory() as folder:
        results = run_all(chosen, Path(folder))
    text = page(results)
    if given.write:
        PAGE.write_text(text)
    else:
        print(text)
    wrong = sum(is_wrong(cell) for cells in results.values() for cell in cells.values())
    print(f"{len(results)} runs, {wrong} cells wrong", file=sys.stderr)
    sys.exit(min(1, wrong))


if __name__ == "__main__":
    main()
