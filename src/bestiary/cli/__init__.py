"""The command line: parse, call, print, exit code. Results go to stdout; progress and notices to stderr.

Everything heavy is imported inside the commands, so that `bestiary --help` is quick.
"""

# Each adds its commands to the application.
from bestiary.cli import (
    audit,  # noqa: F401
    compare,  # noqa: F401
    demo,  # noqa: F401
    evaluate,  # noqa: F401
    export,  # noqa: F401
    fetch,  # noqa: F401
    predict,  # noqa: F401
    report,  # noqa: F401
    review,  # noqa: F401
    serve,  # noqa: F401
    study,  # noqa: F401
    train,  # noqa: F401
    tune,  # noqa: F401
)
from bestiary.cli.app import app, main

__all__ = ["app", "main"]
