"""What the kernel is asked to be: fragments of options, each with its reason, and their merge.

A fragment is a text file. Its first comment, closed by an empty line, says what it is for. After
that a comment gives the reason of the options right below it, up to the next comment or empty line:

    # Sockets.

    # Local and IPv4 sockets.
    CONFIG_UNIX=y
    CONFIG_INET=y

``n`` asks for an option to be off. A value stands as it will in ``.config`` (strings in quotes).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hyperbuild.converter.errors import ContentError, NotFoundError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from hyperbuild.kernel.toolchain import Make

FRAGMENTS = Path(__file__).parent / "config"

_OPTION = re.compile(r"(CONFIG_[A-Z0-9a-z_]+)=(y|n|-?[0-9]+|0x[0-9a-fA-F]+|\"(?:[^\"\\]|\\.)*\")")
_OFF = re.compile(r"# (CONFIG_\w+) is not set")
_KCONFIG = re.compile(r"^\s*(?:menu)?config\s+(\w+)\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Option:
    """One request: ``name`` with its CONFIG_ prefix, ``value`` as in .config or ``n``, and why."""

    name: str
    value: str
    reason: str


@dataclass(frozen=True, slots=True)
class Fragment:
    """The options of one theme; ``purpose`` is its first comment."""

    name: str
    purpose: str
    options: tuple[Option, ...]


@dataclass(frozen=True, slots=True)
class Profile:
    """A kernel for one use: the names of the fragments and of the patches that make it.

    ``bzimage``: it is also built as firmware and boot loaders start it.
    """

    name: str
    purpose: str
    fragments: tuple[str, ...]
    patches: tuple[str, ...]
    bzimage: bool = False


#: What every VM has, and what every kernel gains from.
_CORE = (
    "platform",
    "memory",
    "virtio",
    "console",
    "filesystems",
    "process",
    "network",
    "lean",
)
_LARGER = (*_CORE, "smp", "bus", "dax", "ext4", "sharing", "sandbox", "ipv6")
_FULL = (*_LARGER, "direct", "netfilter", "storage", "compat")
_DISK = (*_LARGER, "firmware", "disks", "verity", "hyperv")
_PATCHES = (
    "boot-stamps",
    "clear-words",
    "known-tsc",
    "page-tables",
    "quiet-messages",
    "short-queues",
    "struct-pages",
    "words-of-the-command-line",
)
_LEAN_PATCHES = (*_PATCHES, "lean-sysfs")

DEFAULT_PROFILE = "dax"
#: The one that machines with firmware can start.
DISK_PROFILE = "disk"

PROFILES: Mapping[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile(
            "micro",
            "one CPU and virtio-mmio: the fastest boot, for images that need no more",
            (*_CORE, "direct", "single"),
            _LEAN_PATCHES,
        ),
        Profile(
            "dax",
            "the root file system mapped from the host, up to 16 CPUs",
            (*_LARGER, "direct"),
            _LEAN_PATCHES,
        ),
        Profile(
            "full",
            "everything that odd workloads ask for: netfilter, more file systems, 32-bit programs",
            _FULL,
            _PATCHES,
        ),
        Profile(
            DISK_PROFILE,
            "dax, and disks, ISOs and firmware: what `convert --output-format` makes boots itself",
            _DISK,
            _LEAN_PATCHES,
            bzimage=True,
        ),
    )
}


def parse_fragment(name: str, text: str) -> Fragment:
    """Return the fragment that text spells; name is for messages.

    ContentError: a line that is neither comment nor option, an option without a reason or given
    twice, or no purpose at the top.
    """
    purpose = ""
    comment: list[str] = []
    options: dict[str, Option] = {}
    after_option = False
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if line.startswith("#"):
            comment = [*([] if after_option else comment), line.lstrip("#").strip()]
            after_option = False
        elif not line:
            purpose = purpose or " ".join(comment)
            comment, after_option = [], False
        else:
            option = _parse_option(f"{name}.config line {number}", line, " ".join(comment))
            if not purpose or option.name in options:
                problem = f"{option.name} is given twice" if purpose else "no purpose at the top"
                raise ContentError(f"{name}.config line {number}: {problem}; correct the fragment")
            options[option.name] = option
            after_option = True
    return Fragment(name, purpose, tuple(options.values()))


def spell_fragment(fragment: Fragment) -> str:
    """Return a text that ``parse_fragment`` makes fragment of: equal ones are spelled equally."""
    options = (f"# {it.reason}\n{it.name}={it.value}\n" for it in fragment.options)
    return f"# {fragment.purpose}\n\n" + "\n".join(options)


def _parse_option(where: str, line: str, reason: str) -> Option:
    match = _OPTION.fullmatch(line)
    if match is None:
        raise ContentError(f"{where}: {line!r} is no CONFIG_NAME=value; correct the fragment")
    if not reason:
        raise ContentError(f"{where}: {match[1]} has no reason; put a comment above it")
    return Option(match[1], match[2], reason)


def read_fragment(path: Path) -> Fragment:
    """Return the fragment in the file path (``NAME.config``).

    UnavailableError when it cannot be read, otherwise as ``parse_fragment``.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UnavailableError(
            f"cannot read the kernel fragment {path}: {error.strerror}; name another"
        ) from error
    except UnicodeDecodeError as error:
        raise ContentError(f"{path} is not UTF-8 text; correct the fragment") from error
    return parse_fragment(path.stem, text)


def load_profile(name: str) -> tuple[Fragment, ...]:
    """Return the fragments of the profile called name; NotFoundError lists the profiles."""
    fragments = find_profile(name).fragments
    return tuple(read_fragment(FRAGMENTS / f"{part}.config") for part in fragments)


def find_profile(name: str) -> Profile:
    """Return the profile called name; NotFoundError lists the profiles."""
    if name not in PROFILES:
        raise NotFoundError(f"no kernel profile {name!r}; there are: {', '.join(PROFILES)}")
    return PROFILES[name]


def requests(fragments: Iterable[Fragment]) -> dict[str, tuple[Option, Fragment]]:
    """Return every option asked for, by name, with the fragment it stands in.

    ContentError when two fragments ask for different values of one option.
    """
    found: dict[str, tuple[Option, Fragment]] = {}
    for fragment in fragments:
        for option in fragment.options:
            other = found.setdefault(option.name, (option, fragment))
            if other[0].value != option.value:
                raise ContentError(
                    f"{option.name} is {other[0].value} in {other[1].name}.config but "
                    f"{option.value} in {fragment.name}.config; keep one of them"
                )
    return found


def render(fragments: Iterable[Fragment]) -> str:
    """Return the options alone, sorted by name: equal requests give equal text."""
    wanted = requests(fragments)
    return "".join(f"{name}={wanted[name][0].value}\n" for name in sorted(wanted))


def parse_config(text: str) -> dict[str, str]:
    """Return the values that a .config sets, by option; what is not set is ``n``."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        if off := _OFF.fullmatch(line):
            values[off[1]] = "n"
        elif line.startswith("CONFIG_"):
            name, _, value = line.partition("=")
            values[name] = value
    return values


def dropped(fragments: Iterable[Fragment], config: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the requests that config does not meet: (``NAME=value``, name of the fragment)."""
    return [
        (f"{option.name}={option.value}", fragment.name)
        for option, fragment in requests(fragments).values()
        if not _same(option.value, config.get(option.name, "n"))
    ]


def _same(asked: str, got: str) -> bool:
    if asked.startswith("0x") and got.startswith("0x"):
        return int(asked, 16) == int(got, 16)
    return asked == got


@dataclass(frozen=True, slots=True)
class Configured:
    """The finished ``.config``, and the options asked to be off that this kernel never had."""

    text: str
    unknown: tuple[str, ...]


def configure(tree: Path, fragments: Sequence[Fragment], make: Make) -> Configured:
    """Configure the source tree at tree from nothing but fragments; return its .config.

    The kernel's scripts drop an option whose dependencies are not met without a word, so that each
    is looked for in the result: ContentError lists those that are missing, with their fragments.
    """
    make.run("tinyconfig")
    request = tree / "hyperbuild.config"
    request.write_text(render(fragments), encoding="ascii")
    make.tool("sh", "scripts/kconfig/merge_config.sh", "-m", ".config", request.name)
    make.run("olddefconfig")
    text = (tree / ".config").read_text(encoding="ascii")
    config = parse_config(text)
    if lost := dropped(fragments, config):
        names = ", ".join(f"{option} ({fragment}.config)" for option, fragment in lost)
        raise ContentError(
            f"the kernel's configuration dropped {names}; ask for what they depend on, too"
        )
    absent = [name for name in requests(fragments) if name not in config]
    return Configured(text, tuple(_unknown(tree, absent)))


def _unknown(tree: Path, names: Sequence[str]) -> list[str]:
    """Return those of names that no Kconfig file of tree defines."""
    if not names:
        return []
    defined: set[str] = set()
    for path in tree.rglob("Kconfig*"):
        if path.is_file():
            defined.update(_KCONFIG.findall(path.read_text(encoding="utf-8", errors="replace")))
    return [name for name in names if name.removeprefix("CONFIG_") not in defined]
