"""Help and usage errors: examples at the end of `--help`, and hints for options that other tools have."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

# Options of other training tools -> what `bestiary train` and `bestiary tune` have in their place.
LOOP = "with --method finetune or scratch"
EQUIVALENTS = {
    ("--epochs", "--epoch", "--num-epochs"): f"Use --set train.epochs=N ({LOOP})",
    ("--imgsz", "--img-size", "--image-size", "--img"): "Use --set picture.size=PIXELS",
    ("--batch", "--batch-size"): f"Use --set train.batch_size=N ({LOOP})",
    ("--lr", "--lr0", "--learning-rate"): f"Use --set train.learning_rate=RATE ({LOOP})",
    ("--optimizer", "--optimiser"): f"Use --set train.optimiser=NAME ({LOOP})",
    ("--data", "--data-dir", "--dataset"): "PICTURES is an argument: bestiary {command} PICTURES",
    ("--model", "--arch"): "Use --backbone NAME for pretrained weights, --method for the training method",
    ("--gpu", "--gpus"): "Use --device cuda (NVIDIA) or mps (Apple); `bestiary doctor` says what there is",
    ("--workers", "--num-workers"): "Use --threads N",
    ("--project", "--output-dir", "--output"): "Use --out FOLDER",
}
HINTS = {option: hint for options, hint in EQUIVALENTS.items() for option in options}
WITH_HINTS = ("train", "tune")


class CommandWithExamples(TyperCommand):
    """A command whose `epilog` has one example a line; `--help` ends with them."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples."""
        write_examples(formatter, self.epilog)


def write_examples(formatter: Any, epilog: str | None) -> None:
    """Write one example a line, without wrapping: an example can be copied."""
    if epilog:
        with formatter.section("Examples"):
            for example in epilog.splitlines():
                formatter.write(f"{'':{formatter.current_indent}}{example}\n")


def describe_equivalent(option: str, command: str | None) -> str | None:
    """Return what `command` has in place of an option of another tool; None if the option or the command is not known.

    >>> describe_equivalent("--imgsz", "train")
    'bestiary train has no --imgsz. Use --set picture.size=PIXELS.'
    """
    if command not in WITH_HINTS or option not in HINTS:
        return None
    return f"bestiary {command} has no {option}. {HINTS[option].format(command=command)}."
