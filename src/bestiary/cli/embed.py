"""The command `embed`: features of pictures by the network of a run."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from bestiary.cli.app import app
from bestiary.cli.options import AsJson, PredictionDevice, PredictionDeviceOption, Quiet, RunPath, Threads
from bestiary.cli.output import print_json
from bestiary.cli.usage import CommandWithExamples
from bestiary.errors import UserError, require_extra

EXAMPLES = "bestiary embed runs/latest new --out features.parquet --nearest 5 --map"
NEAREST_HELP = "Add so many training pictures, the most similar first: path, label, cosine similarity."
MAP_HELP = "Add a two-dimensional map: x and y, the first two principal components (scikit-learn's PCA)."


@app.command(cls=CommandWithExamples, epilog=EXAMPLES)
def embed(
    run: RunPath,
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH…", help='Pictures, folders, patterns ("new/**/*.jpg"), or - for stdin.'),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE.parquet", help="Write into this file: path, error, features.")],
    nearest: Annotated[int, typer.Option(min=0, max=1000, metavar="K", help=NEAREST_HELP)] = 0,
    with_map: Annotated[bool, typer.Option("--map", help=MAP_HELP)] = False,
    device: PredictionDeviceOption = PredictionDevice.auto,
    threads: Threads = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write the features of pictures into a table: the input of the network's last layer, float32."""
    if out.suffix.lower() != ".parquet":
        raise UserError(f"--out takes a file that ends in .parquet; got {out}.")
    require_extra("train")
    from dataclasses import asdict

    from bestiary.context import Context
    from bestiary.inference import inputs
    from bestiary.inference.bundle import read_bundle, require_run_first
    from bestiary.inference.embedding_file import EmbeddingOptions, write_embeddings
    from bestiary.locks import output_lock
    from bestiary.progress import make_reporter
    from bestiary.recipe_sections import FeaturesConfig
    from bestiary.text import describe_skipped

    reporter, skipped = make_reporter(quiet=quiet), Counter[str]()
    require_run_first(run, paths)
    listed = inputs.find_pictures(paths, sys.stdin.buffer, skipped)
    with output_lock(out):
        if out.exists():
            raise UserError(f"{out} exists already. Choose another name.")
        pictures = listed if inputs.LIST in paths else list(listed)  # a list on stdin is read as needed
        if warning := read_bundle(run).describe_whole_pictures():
            reporter.info(warning)
        features = FeaturesConfig(device=device.value)
        context, options = Context.create(threads, reporter, features), EmbeddingOptions(nearest, with_map)
        counts = write_embeddings(run, pictures, out, options, context)
    if message := describe_skipped(skipped):
        reporter.info(message)
    if counts.unreadable:
        reporter.info(f"{counts.unreadable:,} of {counts.pictures:,} pictures could not be read: see the column error.")
    if counts.explained_variance is not None:
        reporter.info(f"The map explains {100 * counts.explained_variance:.0f} % of the variance of the features.")
    print_json({"features": str(out), **asdict(counts)}) if as_json else typer.echo(str(out))
