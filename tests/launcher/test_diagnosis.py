"""What consoles, outputs and exits mean; real failures are in tests/test_smoke.py."""

from __future__ import annotations

import pytest

from hyperbuild.launcher.diagnosis import Evidence, diagnose

NO_LIBRARY = "app: error while loading shared libraries: libx.so.1: cannot open shared object file"
OOM = "[ 1.2] Out of memory: Killed process 31 (perl) total-vm:43972kB, anon-rss:36584kB\n"


@pytest.mark.parametrize(
    ("evidence", "name", "said"),
    [
        (Evidence(console="Kernel panic - not syncing: Fatal trap\n"), "panic", "Fatal trap"),
        (Evidence(console="Kernel panic - not syncing: No working init found."), "no-init", "init"),
        (Evidence(console="hyperstart: no ports\n"), "hyperstart", "no ports"),
        (Evidence(console=OOM, status=137), "out-of-memory", "killed perl; give it more with -m"),
        (Evidence(console=OOM), "out-of-memory", "killed perl"),
        (Evidence(output="a\nMemoryError\n", status=1), "out-of-memory", "MemoryError"),
        (Evidence(refusal='exec "/x": Exec format error'), "wrong-architecture", "--platform"),
        (
            Evidence(refusal="machine: /x is for EM_AARCH64, not for amd64; correct the image"),
            "wrong-architecture",
            "amd64; correct the image",
        ),
        (Evidence(output="sh: 1: exec: /x: Exec format error"), "wrong-architecture", "/x is of"),
        (
            Evidence(
                refusal='exec "/x": the interpreter or ELF loader it names is not in the image'
            ),
            "missing-interpreter",
            "add it to the image",
        ),
        (Evidence(refusal='exec "x": not found in PATH'), "command-not-found", "correct the comm"),
        (Evidence(refusal='exec "/x": Permission denied'), "not-executable", "chmod +x"),
        (Evidence(refusal="boot spec: watch is malformed"), "old-bundle", "hyperbuild convert"),
        (Evidence(refusal="mount /dev/pmem0 (erofs): Invalid argument"), "no-rootfs", "damaged"),
        (Evidence(output=NO_LIBRARY, status=127), "missing-library", "libx.so.1 is missing"),
        (
            Evidence(output="Error loading shared library libz.so.1: No such file", status=127),
            "missing-library",
            "libz.so.1",
        ),
        (Evidence(output="/x: version `GLIBC_2.38' not found", status=1), "missing-library", "old"),
        (Evidence(output="sh: nosuch: not found\n", status=127), "command-not-found", "nosuch"),
        (Evidence(output="x: Permission denied\n", status=126), "not-executable", "Permission"),
        (
            Evidence(output="cp: /a: Read-only file system\n", status=1),
            "read-only",
            "another place",
        ),
        (Evidence(output="cp: No space left on device\n", status=1), "no-space", "-m"),
        (Evidence(output="bind: Address already in use\n", status=1), "port-in-use", "twice"),
        (Evidence(status=139), "signal", "SIGSEGV (11), without a word"),
        (Evidence(status=132), "signal", "--accel kvm"),
        (Evidence(status=170), "signal", "signal 42"),
        (Evidence(output="bad\n\n", status=3), "status", "status 3, its last words: bad;"),
        (Evidence(output="y" * 1000, status=3), "status", "y…"),
    ],
)
def test_each_failure_is_told_by_name_with_a_remedy(
    evidence: Evidence, name: str, said: str
) -> None:
    found = diagnose(evidence)
    assert found is not None
    assert found.name == name
    assert said in str(found)
    assert len(str(found)) < 400
    assert found.remedy


@pytest.mark.parametrize(
    "evidence",
    [
        Evidence(),
        Evidence(output="all is well\n"),
        Evidence(output="No space left on device, it says\n", status=0),
        Evidence(refusal="something else; do this"),
    ],
)
def test_what_is_no_failure_or_is_not_known(evidence: Evidence) -> None:
    assert diagnose(evidence) is None


def test_causes_come_before_what_they_lead_to() -> None:
    evidence = Evidence(console=OOM, output="No space left on device\n", status=137)
    found = diagnose(evidence)
    assert found is not None
    assert found.name == "out-of-memory"
