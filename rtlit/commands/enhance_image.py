"""rtlit enhance-image"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from rtlit.commands.batch import PIPE, Job, Kind, Talk, open_stream, plan, run_batch
from rtlit.commands.options import enhance_options, examples, output_options, report_options, words

# What folders are searched for; a file that is named may have any suffix.
SUFFIXES = frozenset((".avif", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"))
PICTURES = Kind("pictures", SUFFIXES)


@click.command(
    "enhance-image",
    epilog=examples(
        "rtlit enhance-image portrait.jpg  writes portrait.enhanced.jpg",
        "rtlit enhance-image photos/ -r --output-dir out/ --strength 1.2",
        "rtlit enhance-image scan.tif -o scan.png",
        "rtlit enhance-image - -o - --format jpg < in.jpg > out.jpg",
    ),
)
@output_options
@enhance_options
@click.option(
    "--format",
    "output_format",
    metavar="NAME",
    shell_complete=words("jpg", "png", "webp", "tif", "avif"),
    help="Format: jpg, png, webp, tif or avif.  [default: by the result's name]",
)
@report_options
def enhance_image(
    inputs: tuple[str, ...],
    output: str | None,
    output_dir: str | None,
    recursive: bool,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **options: Any,
) -> None:
    """Enhance backlit or under-exposed pictures; everything else in the files stays as it was.

    INPUT is a file, a folder, a glob in quotes, or - for standard input. Results are named INPUT.enhanced.SUFFIX;
    those of folders and of several inputs that exist are skipped.
    """
    form = (options["output_format"] or "").lower().removeprefix(".")

    def suffix_of(path: Path) -> str:
        return f".{form}" if form else path.suffix if path.suffix.lower() in SUFFIXES else ".png"

    batch = plan(inputs, output, output_dir, recursive, PICTURES, suffix_of)
    talk = Talk(quiet, verbose, as_json, json_to_stderr=any(job.target == PIPE for job in batch.jobs))
    sys.exit(run_batch(batch, overwrite, talk, lambda job: _enhance(job, {**options, "overwrite": overwrite}, talk)))


def _enhance(job: Job, options: dict[str, Any], talk: Talk) -> None:
    from rtlit.image import enhance_image as enhance

    report = enhance(
        open_stream(job.source, "stdin"),
        open_stream(job.target, "stdout"),
        **options,
        on_warning=lambda text: talk.warn(job.name, text),
    )
    size = f"{report.width}×{report.height}, {report.depth} bit"
    talk.say(f"{job.name} → {job.target_name}: {size} in {report.wall_seconds:.2f} s")
    if talk.verbose:
        talk.say(f"  backend {report.backend}: {report.backend_reason}")
    talk.report(report.to_dict())
