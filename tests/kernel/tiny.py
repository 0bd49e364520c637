"""A source tree with the targets of Linux's Makefile, whose vmlinux is a PVH program of one line.

It stands in where a test is about the building and not about Linux.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

VERSION = "6.1.0-tiny"

PROGRAM = f"""
.section .note.Xen, "a", @note
    .long 4, 8, 18
    .asciz "Xen"
    .quad _start
.text
.globl _start
_start: hlt
.section .rodata
    .asciz "Linux version {VERSION} (hyperbuild@hyperbuild)"
"""

_MAKEFILE = """
VERSION = 6
PATCHLEVEL = {level}
SUBLEVEL = 0

tinyconfig:
\techo 'CONFIG_EXISTING=y' > .config
olddefconfig:
\tcat hyperbuild.config >> .config
vmlinux:
\techo $$PPID >> {notes}/builds
\twhile [ -e {notes}/gate ]; do sleep 0.05; done
\t@echo '  CC      init/main.o'
\t@{failure}
\tgcc -nostdlib -static -no-pie -Wl,-Ttext-segment=0x100000 -o vmlinux program.S
bzImage: vmlinux
	mkdir -p arch/x86/boot
	echo 'what firmware starts' > arch/x86/boot/bzImage
.PHONY: tinyconfig olddefconfig vmlinux bzImage
"""


def write_tiny_source(tree: Path, notes: Path, failure: str = "true", level: int = 0) -> Path:
    """Fill tree; each build adds its make's pid to notes/builds and waits while notes/gate exists.

    failure is a shell command run in the middle of the build; the release is 6.level.
    """
    (tree / "scripts/kconfig").mkdir(parents=True)
    notes.mkdir(parents=True, exist_ok=True)
    (tree / "Makefile").write_text(_MAKEFILE.format(notes=notes, failure=failure, level=level))
    (tree / "program.S").write_text(PROGRAM)
    (tree / "scripts/kconfig/merge_config.sh").write_text("exit 0\n")
    return tree
