"""`rtlit train simulate`: pictures in simulated bad light."""

from __future__ import annotations

from pathlib import Path

import click

from rtlit.commands.options import WholeNumber, examples, result_options, threads_option
from rtlit.commands.train import require_extra


@click.command(
    epilog=examples(
        "rtlit train simulate well-lit/ -o backlit/ --backlit-only",
        "rtlit train simulate well-lit/ -o pairs/ --truths --count 100 --seed 1",
        "rtlit evaluate pairs/input/ pairs/gt/",
    )
)
@click.argument("photos", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PHOTOS...")
@click.option(
    "-o",
    "--output-dir",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FOLDER",
    help="Folder for them; made.",
)
@click.option("--count", type=WholeNumber(1), metavar="N", help="How many pictures.  [default: one of each photograph]")
@click.option(
    "--size", type=WholeNumber(32), default=512, show_default=True, metavar="N", help="Longer side in pixels."
)
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Of every draw.")
@click.option("--backlit-only", is_flag=True, help="No pictures that are under-exposed as a whole.")
@click.option("--truths", is_flag=True, help="Write input/ and gt/: with what each picture was made of.")
@click.option("--overwrite", is_flag=True, help="Write into a folder that holds something.")
@threads_option
@result_options
def simulate(
    photos: tuple[Path, ...],
    output_dir: Path,
    count: int | None,
    size: int,
    seed: int,
    backlit_only: bool,
    truths: bool,
    overwrite: bool,
    threads: int | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Put PHOTOS, folders of well-lit photographs, into simulated bad light, and write PNG pictures.

    For those who have no backlit photographs: `rtlit train` learns from such a folder and one of well-lit ones.
    """
    require_extra()
    import torch

    from rtlit.training.simulated import SimulatedSet, write_simulated

    if threads:
        torch.set_num_threads(threads)
    wanted = SimulatedSet(count, size, seed, backlit_only, truths)
    written = write_simulated(photos, output_dir, wanted, overwrite=overwrite)
    if as_json:
        import json

        click.echo(json.dumps({"output_dir": str(output_dir), "pictures": written}))
    elif not quiet:
        click.echo(f"{written} pictures in {output_dir}", err=True)
