"""Print the Python version and the installed versions of bestiary's own dependencies, extras included."""

from __future__ import annotations

import platform
from importlib import metadata

from packaging.requirements import Requirement


def installed_versions() -> dict[str, str]:
    """Return the version of each dependency that `bestiary` names and that is installed, in alphabetical order."""
    names = {Requirement(line).name for line in metadata.requires("bestiary") or ()} - {"bestiary"}
    versions = {}
    for name in sorted(names, key=str.casefold):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


if __name__ == "__main__":
    listed = ", ".join(f"{name} {version}" for name, version in installed_versions().items())
    print(f"Python {platform.python_version()}: {listed}.")
