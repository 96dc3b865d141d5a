"""Megabytes of an environment: the files of its site-packages without pip and setuptools."""

from __future__ import annotations

from pathlib import Path

INSTALLERS = ("pip", "setuptools", "wheel", "pkg_resources", "_distutils_hack", "distutils-precedence")
CUDA = ("nvidia", "triton", "cuda")


def measure_environment(environment: Path) -> dict[str, int]:
    """Return `installed_mb` and `without_cuda_mb`; the second also leaves the CUDA part of torch out.

    A CPU build of torch has the same files but for nvidia's packages, triton and torch/lib/libtorch_cuda*.
    """
    packages = next(environment.glob("lib/python*/site-packages"))
    total = cuda = 0
    for path in packages.rglob("*"):
        if path.is_symlink() or not path.is_file():
            continue
        parts = path.relative_to(packages).parts
        if parts[0].startswith(INSTALLERS):
            continue
        size = path.stat().st_size
        total += size
        is_cuda_library = parts[0] == "torch" and any(mark in path.name for mark in ("cuda", "nvshmem", "nccl"))
        if parts[0].startswith(CUDA) or is_cuda_library:
            cuda += size
    return {"installed_mb": round(total / 1e6), "without_cuda_mb": round((total - cuda) / 1e6)}
