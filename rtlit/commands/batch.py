"""What enhance-video and enhance-image share: which files to read, where results go, one file after another."""

from __future__ import annotations

import glob
import json
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import click

from rtlit import files
from rtlit.commands import describe
from rtlit.errors import InputError, OutputError, RtlitError, UsageError

PIPE = "-"
MARK = ".enhanced"
TERMINATED = 143
_SUFFIXES_NAMED = 8


@dataclass(frozen=True)
class Job:
    """One input and where its result goes. Either may be "-"."""

    source: str
    target: str

    @property
    def name(self) -> str:
        """What messages call the input, on one line."""
        return "standard input" if self.source == PIPE else " ".join(self.source.splitlines())

    @property
    def target_name(self) -> str:
        """What messages call the result, on one line."""
        return "standard output" if self.target == PIPE else " ".join(self.target.splitlines())


@dataclass(frozen=True)
class Batch:
    """Jobs, and the inputs that gave none.

    Attributes:
        notes: what else to say, a line each.
        explicit: there is a single input, named by the user; an existing result is then an error. The results
            of several inputs or of a folder that exist are skipped, so that an interrupted batch can go on.
    """

    jobs: list[Job]
    errors: list[tuple[str, RtlitError]] = field(default_factory=list)
    explicit: bool = True
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Kind:
    """What folders are searched for.

    Attributes:
        name: in the plural.
        suffixes: lower-case suffixes of file names that are taken whatever is in the file.
        probe: whether a file with another suffix is one of these.
    """

    name: str
    suffixes: Collection[str]
    probe: Callable[[Path], bool] = lambda path: False


@dataclass(frozen=True)
class Talk:
    """What is told, and where: people read stderr; the JSON report is on stdout unless the result is."""

    quiet: bool = False
    verbose: bool = False
    as_json: bool = False
    json_to_stderr: bool = False

    def say(self, text: str) -> None:
        """A line for people."""
        if not self.quiet:
            click.echo(text, err=True)

    def warn(self, name: str, text: str) -> None:
        """A warning about a file, on one line."""
        self.say(f"{name}: warning: {' '.join(text.split())}")

    def report(self, values: dict[str, Any]) -> None:
        """A line of the JSON report."""
        if self.as_json:
            click.echo(json_line(values), err=self.json_to_stderr)


def json_line(values: dict[str, Any]) -> str:
    """One line; names as they are, bytes in them that are no UTF-8 as JSON's \\udc80 … \\udcff."""
    return json.dumps(values, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()


def plan(
    inputs: Sequence[str],
    output: str | None,
    output_dir: str | None,
    recursive: bool,
    kind: Kind,
    suffix_of: Callable[[Path], str],
) -> Batch:
    """Find the files that `inputs` (files, folders, globs, "-") stand for, and a target for each.

    Args:
        kind: what is looked for in folders.
        suffix_of: the suffix of the default target of an input.

    Raises:
        UsageError: the options contradict each other.
    """
    if output is not None and output_dir is not None:
        raise UsageError("-o and --output-dir can't be used together")
    found: list[tuple[str, Path]] = []
    errors: list[tuple[str, RtlitError]] = []
    notes: list[str] = []
    for text in inputs:
        try:
            found.extend(expand(text, recursive, kind, note=notes.append))
        except RtlitError as error:
            errors.append((text, error))
    if output is not None and (len(inputs) > 1 or len(found) > 1):
        count = max(len(found), len(inputs))
        raise UsageError(f"-o takes the result of a single input, not of {count}; use --output-dir")
    if "" in (*inputs, output, output_dir):  # which the system takes for the current folder
        raise UsageError("a name is empty; name a file or a folder (. is this one)")
    for option, value in (("-o", output), ("--output-dir", output_dir)):
        if value is not None and re.match(r"[a-z][a-z0-9+.-]+://", value, re.IGNORECASE):
            raise UsageError(f"{option} {value} is a URL; results are written to files: name one, and upload it")
    if output is not None and output != PIPE and (output.endswith(os.sep) or Path(output).is_dir()):
        raise UsageError(f"-o {output} is a folder; use --output-dir {output}")
    jobs, clashes = _without_clashes(
        [
            Job(source, output or _default_target(source, below, output_dir, suffix_of))
            for source, below in dict(found).items()
        ]
    )
    explicit = len(inputs) == 1 and [job.source for job in jobs] == list(inputs)
    return Batch(jobs, errors + clashes, explicit, notes)


def expand(
    text: str, recursive: bool, kind: Kind, to: str = "enhance", note: Callable[[str], None] = lambda line: None
) -> Iterator[tuple[str, Path]]:
    """Files that a file's name, a folder, a glob or "-" stands for; each with its folder below the one given.

    Args:
        to: what for; in folders and globs, results of ours are no files to enhance.
        note: told, in one line, how many files of a folder are passed over.

    Raises:
        InputError: there are none.
    """
    path = Path(text)
    if text.startswith("file://"):
        raise InputError(f"{text}: is a URL; write it as a path")
    if text != PIPE and "://" in text and not path.exists():
        raise InputError(f"{text}: is a URL; download it first, and name the file")
    if text == PIPE or path.is_file():
        yield text, Path()
    elif path.is_dir():
        inside = [p for p in sorted(path.rglob("*") if recursive else path.iterdir()) if _wanted(p, to)]
        taken = [p for p in inside if p.suffix.lower() in kind.suffixes or kind.probe(p)]
        if len(taken) < len(inside):
            others = [p for p in inside if p not in set(taken)]
            kinds = sorted({p.suffix.lower() or "no suffix" for p in others})
            suffixes = ", ".join([*kinds[:_SUFFIXES_NAMED], *(["…"] if len(kinds) > _SUFFIXES_NAMED else [])])
            count = f"{len(others)} files" if len(others) > 1 else "1 file"
            note(f"{text}: {count} passed over, no {kind.name} ({suffixes})")
        if not taken:
            deeper = "" if recursive else " (subfolders need -r)"
            raise InputError(f"{text}: no files to {to} in this folder{deeper}")
        yield from ((str(p), p.parent.relative_to(path)) for p in taken)
    elif path.exists():
        yield text, Path()  # a named pipe or a device
    elif glob.has_magic(text):
        matches = [p for p in map(Path, sorted(glob.glob(text, recursive=True))) if _wanted(p, to)]
        if not matches:
            raise InputError(f"{text}: no file matches")
        yield from ((str(p), Path()) for p in matches)
    elif path.is_symlink():
        raise InputError(f"{text}: is a link to {os.readlink(path)}, which isn't there")
    else:
        raise InputError(f"{text}: no such file or folder")


def _wanted(path: Path, to: str) -> bool:
    """Whether a file found (not named) is an input: not hidden, and to be enhanced, not a result of ours."""
    return path.is_file() and not path.name.startswith(".") and not (to == "enhance" and path.stem.endswith(MARK))


def _default_target(source: str, below: Path, output_dir: str | None, suffix_of: Callable[[Path], str]) -> str:
    if source == PIPE:
        return PIPE
    path = Path(source)
    folder = path.parent if output_dir is None else Path(output_dir, below)
    return str(folder / files.fitting(path.stem, f"{MARK}{suffix_of(path)}"))


def _without_clashes(jobs: list[Job]) -> tuple[list[Job], list[tuple[str, RtlitError]]]:
    """The jobs whose result would not replace another's, and an error for each of the others."""
    owner: dict[str, Job] = {}
    errors: list[tuple[str, RtlitError]] = []
    for job in jobs:
        if job.target in owner and job.target != PIPE:
            other = owner[job.target].source
            what = f"{job.source}: the result of {other} has the same name; give it one with -o"
            errors.append((job.source, OutputError(what)))
        else:
            owner[job.target] = job
    return list(owner.values()), errors


def open_stream(name: str, pipe: str) -> str | BinaryIO:
    """The file name itself, or for "-" the binary stream of sys.stdin or sys.stdout."""
    if name != PIPE:
        return name
    stream: BinaryIO = getattr(sys, pipe).buffer
    if stream.isatty():
        raise UsageError(f"{pipe} is a terminal; give a file, or pipe to or from another program")
    return stream


def run_batch(batch: Batch, overwrite: bool, talk: Talk, work: Callable[[Job], None]) -> int:
    """Do each job; an error ends its job alone. Returns the exit code."""
    with unwinding():
        for line in batch.notes:
            talk.say(line)
        codes = [_failed(source, error, talk) for source, error in batch.errors]
        for job in batch.jobs:
            try:
                if not overwrite and not batch.explicit and job.target != PIPE and Path(job.target).is_file():
                    talk.say(f"{job.name}: {job.target_name} exists, skipped")
                    talk.report({"input": job.source, "output": job.target, "skipped": True})
                    continue
                with _folder_of(job.target):
                    if job.target != PIPE:
                        files.check_target(job.source, job.target, overwrite, "use --overwrite to replace it")
                    work(job)
            except BrokenPipeError:
                raise
            except Exception as error:
                codes.append(_failed(job.source, error, talk))
    return codes[0] if batch.explicit and codes else min(1, len(codes))


_came: list[int] = []  # signals since `unwinding` began


def _unwind(number: int, *_: object) -> None:
    _came.append(number)
    check_signals()


def check_signals() -> None:
    """End as a signal that came asked for: what it raised may have been lost in a callback of a library's."""
    if _came:
        raise KeyboardInterrupt if _came[0] == signal.SIGINT else SystemExit(TERMINATED)


@contextmanager
def unwinding() -> Iterator[None]:
    """A terminated process, like an interrupted one, unwinds: temporary files are removed on the way."""
    watched = [number for number in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, _unwind) for number in watched}
    _came.clear()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _folder_of(target: str) -> Iterator[None]:
    """Make the target's folder; take it away again when nothing came to lie in it."""
    folder = Path(target).parent
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: can't make this folder ({error.strerror})") from None
    try:
        yield
    finally:
        with suppress(OSError):
            for path in made:
                path.rmdir()


def _failed(source: str, error: Exception, talk: Talk) -> int:
    if talk.verbose and not isinstance(error, RtlitError):
        traceback.print_exception(error)
    message, code = describe(error)
    click.echo(message, err=True)
    talk.report({"input": source, "error": message.removeprefix("rtlit: ")})
    return code
