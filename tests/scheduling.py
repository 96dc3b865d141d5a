"""Which tests follow one another in a process of pytest-xdist, and which begin first.

xdist's own `--dist loadgroup` ignores groups with pytest 9.2 (xdist 3.8): it appends them to the name of a test where
pytest no longer reads it. So `--dist loadfile` hands out what `group_of_file` says.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePath

# Those that take minutes, the longest first. They begin first, so that no worker is left alone with one at the end:
# `--dist loadfile --no-loadscope-reorder` hands groups out in this order, and not by their number of tests.
FIRST_GROUPS = (
    *("Ray", "test_docs.py", "pages", "test_real.py", "test_flow.py", "test_killed.py", "test_classifier.py"),
    *("test_cli.py", "test_finetune.py", "test_timm_backbone.py", "test_printed_commands.py"),
    *("test_one_pass.py", "test_readme.py", "test_tune_processes.py"),
)
# Fixtures, in the order of the tests that use them, so that each cluster is started once.
CLUSTERS = ("local_ray", "two_nodes")


def group_of_file(path: str) -> str:
    """Return the group of a file: those that share a cluster of Ray, or the browsers, or its own name.

    >>> group_of_file("tests/test_cluster_audit.py"), group_of_file("tests/test_serve_page.py")
    ('Ray', 'pages')
    >>> group_of_file("tests/test_docs.py"), group_of_file("README.md")
    ('test_docs.py', 'README.md')
    """
    name = PurePath(path).name
    return "Ray" if name.startswith("test_cluster_") else "pages" if name.endswith("_page.py") else name


def sort_key(path: str, fixtures: Iterable[str]) -> tuple[int, int]:
    """Return the place of a test: by its group, and by the cluster that it uses, so that each is started once."""
    group, used = group_of_file(path), set(fixtures)
    place = FIRST_GROUPS.index(group) if group in FIRST_GROUPS else len(FIRST_GROUPS)
    return place, next((number for number, name in enumerate(CLUSTERS) if name in used), len(CLUSTERS))
