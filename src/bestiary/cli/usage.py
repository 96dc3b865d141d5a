"""Help of a command: examples at its end."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand


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
