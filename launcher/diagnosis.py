"""Why a guest failed, from what it printed, told and ended with: one line, with a remedy."""

from __future__ import annotations

import re
import signal
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: Failures by name that are the machine's, whatever its application did.
OF_MACHINE = ("hyperstart", "panic", "no-init", "verity")
#: A kernel that did not make the device that hyperstart is to mount.
NO_VERITY = "no-verity"

_WORDS_SHOWN = 160

_PANIC = re.compile(r"Kernel panic - not syncing: (.*)")
_HYPERSTART = re.compile(r"^hyperstart: (.*)", re.MULTILINE)
_CORRUPTED = re.compile(r"device-mapper: verity: \S+ ((?:meta)?data block \d+) is corrupted")
_OUT_OF_MEMORY = re.compile(r"Out of memory: Killed process \d+ \((.*?)\)")


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of a VM: texts of the console and of what the application wrote (their ends).

    ``status`` is the application's (None: it has not ended), ``refusal`` what hyperstart or the
    launcher said of an application that was not started.
    """

    console: str = ""
    output: str = ""
    status: int | None = None
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A failure by name, in words, and what to do about it."""

    name: str
    text: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.text}; {self.remedy}"


def diagnose(evidence: Evidence) -> Diagnosis | None:
    """Return what most likely went wrong; None if nothing is recognised, or status is 0."""
    return next(_findings(evidence), None)


def _findings(evidence: Evidence) -> Iterator[Diagnosis]:
    """Yield what is recognised, causes before what they lead to."""
    yield from _of_machine(evidence.console)
    if evidence.refusal:
        yield from _of_refusal(evidence.refusal)
        return
    if evidence.status == 0:
        return
    killed = _OUT_OF_MEMORY.findall(evidence.console)
    if killed:
        yield Diagnosis(
            "out-of-memory",
            f"the guest ran out of memory and killed {killed[-1]}",
            "give it more with -m",
        )
    yield from _of_output(evidence.output)
    if evidence.status is not None:
        yield _of_status(evidence.status, evidence.output)


def _of_machine(console: str) -> Iterator[Diagnosis]:
    if told := _HYPERSTART.findall(console):
        yield Diagnosis(
            "hyperstart", f"hyperstart failed: {told[-1]}", "make the bundle again, or report it"
        )
    panic = _PANIC.search(console)
    if panic is None:
        return
    reason = panic[1].strip()
    text = f"the guest's kernel panicked: {reason}"
    if reason.startswith("dm-verity"):
        yield Diagnosis("verity", *_of_verity(console))
    elif re.search(r"memory|oom", reason, re.IGNORECASE):
        yield Diagnosis("panic", text, "give the VM more memory with -m")
    elif re.search(r"init|root fs", reason):
        remedy = "the initramfs does not fit the kernel; make the bundle again"
        yield Diagnosis("no-init", text, remedy)
    else:
        remedy = "this kernel does not fit this machine; build it again, or boot with -m or --cpus"
        yield Diagnosis("panic", text, remedy)


def _of_verity(console: str) -> tuple[str, str]:
    """Return text and remedy. The kernel names the block once an application runs, not before."""
    block = _CORRUPTED.findall(console)
    where = f" ({block[-1]})" if block else ""
    text = f"the root file system was changed: a block does not match its dm-verity hash{where}"
    return text, "do not trust that disk; convert the image again, or pull the bundle anew"


#: What a refusal's text has in it -> name and remedy.
_REFUSALS = (
    (r"watch is malformed", "old-bundle", "make the bundle again with hyperbuild convert"),
    (
        r"Exec format error|\bis for EM_|^machine: ",
        "wrong-architecture",
        "take an image of this architecture (--platform), or correct the program",
    ),
    (r"^library: ", "missing-library", "add the library to the image"),
    (
        r"interpreter|ELF loader",
        "missing-interpreter",
        "add it to the image, or link the program statically",
    ),
    (
        r"not found in PATH|no such file|is not in (the image|PATH)",
        "command-not-found",
        "correct the command, or add it to the image",
    ),
    (
        r"Permission denied|no file that its user may execute|neither an ELF",
        "not-executable",
        "make it executable for the image's USER (chmod +x), or correct its first line",
    ),
    (r"No space left", "no-space", "give the VM more memory with -m"),
    (
        r"^/dev/dm-",
        NO_VERITY,
        "the kernel could not set up dm-verity: convert the image again with --profile disk",
    ),
    (
        r"^mount ",
        "no-rootfs",
        "the root file system is damaged, or the kernel can't read it: make the bundle again",
    ),
)


def _of_refusal(text: str) -> Iterator[Diagnosis]:
    for pattern, name, remedy in _REFUSALS:
        if re.search(pattern, text):
            # The launcher's own refusals bring their remedies.
            what, _, told = text.partition("; ")
            explained = what
            if "Exec format error" in what:
                explained += " (it is of another architecture, or no program)"
            yield Diagnosis(name, explained, told or remedy)
            return


#: What the application wrote -> name, text (a template for the match) and remedy.
_OUTPUTS = (
    (
        r"error while loading shared libraries: ([^\s:]+):|Error loading shared library ([^\s:]+):",
        "missing-library",
        "the library {} is missing",
        "add it to the image",
    ),
    (
        r"version `(\S+)' not found",
        "missing-library",
        "the image's libraries are too old: {} is missing",
        "build the program for this image",
    ),
    (
        r"(\S+): (?:[Ee]xec format error|cannot execute binary file)",
        "wrong-architecture",
        "{} is of another architecture, or no program",
        "take an image of this architecture (--platform), or correct the program",
    ),
    (
        r"([^\n]*(?:Cannot allocate memory|Out of memory|ENOMEM|MemoryError|bad_alloc)[^\n]*)",
        "out-of-memory",
        "the application got no memory: {}",
        "give it more with -m",
    ),
    (
        r"([^\n]*(?:Read-only file system|EROFS)[^\n]*)",
        "read-only",
        "the application can't write there: {}",
        "have it write to another place",
    ),
    (
        r"([^\n]*(?:No space left on device|ENOSPC)[^\n]*)",
        "no-space",
        "the guest has no space left: {}",
        "what is written lies in its memory: give it more with -m, or write less",
    ),
    (
        r"([^\n]*(?:Address already in use|EADDRINUSE)[^\n]*)",
        "port-in-use",
        "the application found its port in use: {}",
        "see whether it is started twice",
    ),
)


def _of_output(output: str) -> Iterator[Diagnosis]:
    for pattern, name, text, remedy in _OUTPUTS:
        found = re.findall(pattern, output)
        if found:
            last = found[-1] if isinstance(found[-1], str) else next(filter(None, found[-1]))
            yield Diagnosis(name, text.format(_cut(last.strip())), remedy)


#: What a death by signal often means.
_ASKED = "it was told to end: by whoever stopped this command, or by the guest"
_SIGNALS: Mapping[int, str] = {
    signal.SIGHUP: _ASKED,
    signal.SIGINT: _ASKED,
    signal.SIGTERM: _ASKED,
    signal.SIGILL: "the CPU that it is shown may lack an instruction: try --accel kvm",
    signal.SIGKILL: "find out who killed it in the guest",
    signal.SIGSYS: "the kernel may lack a system call that it needs: try --profile full",
}
#: What shells, and those that behave like them, end with.
_STATUSES = {
    126: (
        "not-executable",
        "the application could not execute a command (status 126)",
        "make that executable for the image's USER, or correct its name",
    ),
    127: (
        "command-not-found",
        "the application did not find a command (status 127)",
        "add it to the image; if it is there, its interpreter or ELF loader is missing",
    ),
}


def _of_status(status: int, output: str) -> Diagnosis:
    words = last_words(output)
    said = f", its last words: {words}" if words else ", without a word"
    if status in _STATUSES:
        name, text, remedy = _STATUSES[status]
        return Diagnosis(name, text + said, remedy)
    if status <= 128:
        text = f"the application ended with status {status}{said}"
        return Diagnosis("status", text, "see what it needs to go on")
    number = status - 128
    shown = f"signal {number}"
    with suppress(ValueError):
        shown = f"{signal.Signals(number).name} ({number})"
    remedy = _SIGNALS.get(number, "see whether it does so under docker, too")
    return Diagnosis("signal", f"the application died by {shown}{said}", remedy)


def last_words(output: str) -> str:
    """Return the last line of output that has anything on it, cut."""
    lines = (line.strip() for line in reversed(output.splitlines()))
    return _cut(next(filter(None, lines), ""))


def _cut(text: str) -> str:
    return text if len(text) <= _WORDS_SHOWN else f"{text[: _WORDS_SHOWN - 1]}…"
