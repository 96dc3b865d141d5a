from pathlib import Path

import pytest

from bestiary import processor
from bestiary.processor import Processor, parse_cpuinfo, read_processor

XEON = """\
processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Platinum 8375C
flags\t\t: fpu sse2 avx avx2 fma avx512f avx512_vnni bf16x

processor\t: 1
model name\t: another
flags\t\t: fpu
"""
RASPBERRY_PI_5 = """\
processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm aes asimdhp asimddp
CPU implementer\t: 0x41
CPU part\t: 0xd0b
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            XEON,
            Processor("Intel(R) Xeon(R) Platinum 8375C", "x86_64", ("avx", "avx2", "fma", "avx512f", "avx512_vnni")),
        ),
        (RASPBERRY_PI_5, Processor("Arm 0x41 0xd0b", "x86_64", ("asimd", "asimdhp", "asimddp"))),
        ("", Processor("unknown", "x86_64", ())),
    ],
)
def test_a_processor_is_read_from_cpuinfo(text: str, expected: Processor) -> None:
    assert parse_cpuinfo(text, "x86_64") == expected


def test_without_cpuinfo_numpy_tells_the_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "CPUINFO", Path("/nowhere"))
    monkeypatch.setattr("platform.machine", lambda: "AMD64")
    monkeypatch.setattr("platform.processor", lambda: "Intel64 Family 6")
    extensions = {"baseline": ["X86_V2"], "found": ["X86_V3"], "not found": ["X86_V4"]}
    monkeypatch.setattr("numpy.show_config", lambda mode: {"SIMD Extensions": extensions})
    assert read_processor.__wrapped__() == Processor("Intel64 Family 6", "x86_64", ("x86_v2", "x86_v3"))


def test_this_processor_has_a_name_and_a_kind() -> None:
    assert read_processor().kind.split()[0] in str(read_processor())
    assert read_processor().name
