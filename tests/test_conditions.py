"""The conditions of `scripts/test-conditions` hold for the tests and for the processes that they start."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROBE = """
import multiprocessing, os, socket, subprocess, sys
from pathlib import Path

import bestiary

SHOW_START_METHOD = "import multiprocessing; print(multiprocessing.get_start_method())"


def is_refused(path):
    try:
        path.write_text("x")
    except OSError:
        return True
    return False


def test_conditions():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        pass
    try:
        socket.create_connection(("192.0.2.1", 80), timeout=1)  # a network for documentation
    except OSError as error:
        assert "unreachable" in str(error)
    else:
        raise AssertionError("there is a network")
    done = subprocess.run([sys.executable, "-c", SHOW_START_METHOD], capture_output=True, text=True, check=True)
    assert multiprocessing.get_start_method() == done.stdout.strip() == "spawn"
    assert os.geteuid() == 1000
    assert is_refused(Path.home() / "x")
    assert is_refused(Path(bestiary.__file__).parent / "x.py")
"""


def can_isolate() -> bool:
    """Return whether this computer lets a process have a user and a network of its own, and git lists the tree."""
    if sys.platform != "linux" or not all(map(shutil.which, ("git", "unshare", "setpriv", "ip"))):
        return False
    namespaces = ["unshare", "--user", "--map-user=1000", "--map-group=1000", "--keep-caps", "--net"]
    commands = [[*namespaces, "ip", "link", "set", "lo", "up"], ["git", "ls-files"]]
    return all(subprocess.run(line, cwd=ROOT, capture_output=True, check=False).returncode == 0 for line in commands)


@pytest.mark.skipif(
    not can_isolate(), reason="the conditions are those of Linux's namespaces, which are not allowed here"
)
def test_the_conditions_hold(tmp_path: Path) -> None:
    probe = tmp_path / "test_probe.py"
    probe.write_text(PROBE)
    command = [
        str(ROOT / "scripts" / "test-conditions"),
        "offline",
        "spawn",
        "unprivileged",
        "home",
        "--",
        "-q",
        "-n",
        "0",
    ]
    done = subprocess.run([*command, "-p", "no:cacheprovider", str(probe)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    assert done.stdout.startswith("Conditions: offline spawn unprivileged home.")


@pytest.mark.parametrize(
    ("names", "message"),
    [(["online"], 'There is no condition "online"'), (["home"], "one of an unprivileged user: add unprivileged")],
)
def test_a_condition_that_there_is_not_is_named(names: list[str], message: str) -> None:
    command = [str(ROOT / "scripts" / "test-conditions"), *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert message in done.stderr
