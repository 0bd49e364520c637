"""A host for hyperstart: QEMU with the two ports on sockets, and the protocol, nothing more.

Written from docs/hyperstart.md, apart from the launcher, so that the two check each other.
"""

from __future__ import annotations

import os
import selectors
import socket
import struct
import subprocess
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from hyperbuild.initramfs.cpio import spec_segment

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from types import TracebackType

HELLO, EVENT, EXIT, ERROR, STARTED, ENDED, REFUSED, INPUT_WINDOW, PONG = range(1, 10)
SIGNAL, STOP, SPEC, START, CLOCK, EXEC, RESIZE, WINDOW, PING, RESEED, CLEAR = range(16, 27)
NAMES = (
    "", "hello", "event", "exit", "error", "started", "ended", "refused", "window", "pong",
)  # fmt: skip
VERSION = 5
OUTPUT_AT_FIRST = 256 << 10
INPUT_AT_FIRST = 64 << 10
SEED = bytes(range(64))
NOW = 2_000_000_000_000_000_000

#: Seconds after which a guest is taken for hung.
PATIENCE = 60.0

WORDS = (
    "quiet loglevel=1 console=ttyS0 panic=-1 reboot=t rdinit=/init "
    "no_timer_check tsc=reliable noreplace-smp"
)


@dataclass(frozen=True, slots=True)
class Board:
    """A machine: QEMU's arguments, the bus its devices are on, the rootfs line, kernel words."""

    argv: tuple[str, ...]
    bus: str
    rootfs: bytes
    words: str = ""


def microvm(disk: Path, fstype: str = "erofs") -> Board:
    """Return a microvm with disk on virtio-blk."""
    drive = f"if=none,id=disk,format=raw,read-only=on,file={disk}"
    return Board(
        (
            *("-m", "128M", "-machine", "microvm,acpi=off,x-option-roms=off,isa-serial=on"),
            *("-drive", drive, "-device", "virtio-blk-device,drive=disk"),
        ),
        "device",
        f"/dev/vda {fstype} -\n".encode(),
    )


def pc_with_pmem(disk: Path, fstype: str = "erofs") -> Board:
    """Return a pc with disk (a multiple of 2 MiB) as persistent memory at 4 GiB."""
    size = disk.stat().st_size
    backend = f"memory-backend-file,id=m0,size={size},share=on,readonly=on,mem-path={disk}"
    return Board(
        (
            *("-m", "128M,slots=2,maxmem=8G", "-machine", "pc,nvdimm=on", "-object", backend),
            *("-device", f"nvdimm,memdev=m0,addr={4 << 30:#x},unarmed=on"),
        ),
        "pci",
        f"/dev/pmem0 {fstype} dax\n".encode(),
        f"memmap={size >> 10}K!4G acpi=off",
    )


def spec(*argv: str | bytes, **changes: bytes) -> dict[str, bytes]:
    """Return a boot spec that runs argv as root; a change `resolv_conf` is the file resolv.conf."""
    arguments = [part.encode() if isinstance(part, str) else part for part in argv]
    files = {
        "argv": b"".join(part + b"\0" for part in arguments),
        "containers": b"1",
        "environ": b"PATH=/usr/bin:/bin\0",
        "cwd": b"/",
        "user": b"0 0\n",
        "hostname": b"guest",
        "net": b"",
        "hosts": b"127.0.0.1\tlocalhost\n",
        "machine-id": b"0123456789abcdef" * 2 + b"\n",
        "resolv.conf": b"",
        "stop-signal": b"15",
        "clock": str(NOW).encode(),
        "seed": SEED,
        "watch": b"",
        "hold": b"",
        "upper": b"",
        "mounts": b"",
        "readonly": b"",
        "health": b"",
        "health-times": b"",
        "tty": b"",
    }
    return files | renamed(changes)


def renamed(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return files under their names in the spec: machine_id is the file machine-id."""
    names = {"resolv_conf": "resolv.conf"}
    return {names.get(name, name.replace("_", "-")): content for name, content in files.items()}


@dataclass(slots=True)
class Told:
    """Everything the guest has said."""

    facts: dict[str, str] | None = None
    events: list[tuple[str, int]] = field(default_factory=list)
    status: int | None = None
    error: tuple[int, str] | None = None
    streams: dict[int, bytearray] = field(default_factory=lambda: defaultdict(bytearray))
    ended: set[int] = field(default_factory=set)
    started: list[int] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    refused: dict[int, tuple[int, str]] = field(default_factory=dict)
    pongs: list[int] = field(default_factory=list)
    marks: int = 0
    order: list[str] = field(default_factory=list)
    console: bytearray = field(default_factory=bytearray)

    @property
    def stdout(self) -> bytes:
        """Standard output so far."""
        return bytes(self.streams[1])

    @property
    def stderr(self) -> bytes:
        """Standard error so far."""
        return bytes(self.streams[2])

    def output(self, process: int) -> bytes:
        """Standard output of a process so far."""
        return bytes(self.streams[2 * process + 1])

    def errors(self, process: int) -> bytes:
        """Standard error of a process so far."""
        return bytes(self.streams[2 * process + 2])

    def is_over(self, process: int) -> bool:
        """Whether a process has ended, or never began, and all of it is told."""
        if process in self.refused:
            return True
        return process in self.statuses and {2 * process + 1, 2 * process + 2} <= self.ended


class Machine:
    """One VM, powered on; a context manager that leaves no QEMU behind."""

    def __init__(
        self,
        kernel: Path,
        initrd: Path,
        board: Board,
        files: Mapping[str, bytes],
        *,
        ports: bool = True,
        netdev: bool = False,
    ) -> None:
        self.told = Told()
        self.hold_stream = False
        self.held_windows: set[int] = set()
        self.read_size = 1 << 16
        self._windows: dict[int, int] = defaultdict(lambda: OUTPUT_AT_FIRST)
        self._rooms: dict[int, int] = defaultdict(lambda: INPUT_AT_FIRST)
        self._inputs: dict[int, deque[bytes]] = defaultdict(deque)
        initrd.write_bytes(initrd.read_bytes() + spec_segment({"rootfs": board.rootfs, **files}))
        pairs = [socket.socketpair() for _ in range(3)]
        self._console, self.control, self.stream = (ours for ours, _ in pairs)
        theirs = [their.fileno() for _, their in pairs]
        self._qemu = subprocess.Popen(
            [
                *("timeout", "--foreground", str(int(PATIENCE)), "qemu-system-x86_64"),
                *("-accel", "tcg", "-nodefaults", "-no-user-config", "-display", "none"),
                *("-no-reboot", *board.argv),
                *("-kernel", str(kernel), "-initrd", str(initrd)),
                *("-append", f"{WORDS} {board.words}"),
                *("-chardev", f"socket,id=console,fd={theirs[0]}", "-serial", "chardev:console"),
                *(_ports(board.bus, theirs[1], theirs[2]) if ports else ()),
                *(_nic(board.bus) if netdev else ()),
            ],
            pass_fds=theirs,
            stdin=subprocess.DEVNULL,
        )
        for ours, their in pairs:
            their.close()
            ours.setblocking(False)
        self._buffers = {self.control: bytearray(), self.stream: bytearray()}
        self._unsent = {self.control: bytearray(), self.stream: bytearray()}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._qemu.terminate()
        self._qemu.wait()
        for end in (self._console, self.control, self.stream):
            end.close()

    def send(self, kind: int, payload: bytes) -> None:
        """Queue a control message."""
        self._unsent[self.control] += struct.pack(">II", kind, len(payload)) + payload

    def put(self, name: str, content: bytes) -> None:
        """Queue a file of a new spec, whole."""
        self.send(SPEC, name.encode() + b"\0" + content)

    def renew(self, clock: int = NOW, **files: bytes) -> None:
        """Queue all that a held VM waits for: files of its new spec, and the time."""
        for name, content in renamed({"seed": SEED[::-1], **files}).items():
            self.put(name, content)
        self.send(START, b"")
        self.send(CLOCK, clock.to_bytes(8))

    def send_raw(self, data: bytes) -> None:
        """Queue bytes on the control port."""
        self._unsent[self.control] += data

    def send_frame(self, data: bytes, sequence: int = 1) -> None:
        """Queue data for a stream, which goes as the guest's window has room for it."""
        self._inputs[sequence].append(data)
        self._pump(sequence)

    def send_frame_at_once(self, data: bytes, sequence: int = 1) -> None:
        """Queue a stream frame whatever the guest's window is."""
        self._rooms[sequence] -= len(data)
        self._unsent[self.stream] += struct.pack(">QI", sequence, len(data)) + data

    def _pump(self, sequence: int) -> None:
        waiting = self._inputs[sequence]
        while waiting and (self._rooms[sequence] > 0 or not waiting[0]):
            data = waiting.popleft()
            part, rest = data[: self._rooms[sequence]], data[self._rooms[sequence] :]
            if rest:
                waiting.appendleft(rest)
            self.send_frame_at_once(part, sequence)

    def exec(
        self,
        process: int,
        *argv: str | bytes,
        container: int = 0,
        flags: int = 0,
        size: tuple[int, int] = (0, 0),
        user: bytes = b"",
        cwd: bytes = b"",
        environ: tuple[bytes, ...] = (),
    ) -> None:
        """Queue EXEC."""
        words = [word.encode() if isinstance(word, str) else word for word in argv]
        strings = (user, cwd, *environ, b"", *words)
        head = struct.pack(">IIIHH", process, container, flags, *size)
        self.send(EXEC, head + b"".join(text + b"\0" for text in strings))

    def signal(self, number: int, process: int = 0) -> None:
        """Queue SIGNAL."""
        self.send(SIGNAL, struct.pack(">II", number, process))

    def widen(self, sequence: int, size: int) -> None:
        """Queue WINDOW: let so much more of a stream come."""
        self._windows[sequence] += size
        self.send(WINDOW, struct.pack(">QI", sequence, size))

    def until(self, wanted: Callable[[Told], object], patience: float = PATIENCE) -> bool:
        """Carry bytes until wanted is true of what was told; False if time or the VM ends first."""
        deadline = time.monotonic() + patience
        while not wanted(self.told):
            if time.monotonic() > deadline or not self._carry(deadline - time.monotonic()):
                return bool(wanted(self.told))
        return True

    def finish(self) -> Told:
        """Run to the end as the launcher does: all is read, the stream port closed, QEMU gone."""
        complete = self.until(
            lambda told: told.error or (told.status is not None and {1, 2} <= told.ended)
        )
        assert complete, f"the guest told no end: {self.told}"
        return self.power_off()

    def power_off(self) -> Told:
        """Close the stream port and wait for QEMU to end by itself."""
        self.stream.close()
        return self.wait()

    def wait(self) -> Told:
        """Wait for QEMU to end by itself."""
        deadline = time.monotonic() + PATIENCE
        while self._carry(deadline - time.monotonic()) and time.monotonic() < deadline:
            pass
        assert self._qemu.wait(timeout=PATIENCE) == 0, bytes(self.told.console)
        return self.told

    def cpu_seconds(self) -> float:
        """Return the CPU time that QEMU has used so far."""
        child = _only_child(self._qemu.pid)
        fields = _read(f"/proc/{child}/stat").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _carry(self, seconds: float) -> bool:
        """Read and write once what is possible; False when QEMU has closed everything."""
        open_ends = [end for end in (self._console, self.control, self.stream) if end.fileno() >= 0]
        if not open_ends:
            return False
        with selectors.DefaultSelector() as selector:
            for end in open_ends:
                held = end is self.stream and self.hold_stream
                events = 0 if held else selectors.EVENT_READ
                if self._unsent.get(end):
                    events |= selectors.EVENT_WRITE
                if events:
                    selector.register(end, events)
            for key, events in selector.select(max(0.0, seconds)):
                end = key.fileobj
                assert isinstance(end, socket.socket)
                if events & selectors.EVENT_WRITE:
                    self._write(end)
                if events & selectors.EVENT_READ:
                    self._read(end)
        return True

    def _write(self, end: socket.socket) -> None:
        try:
            del self._unsent[end][: end.send(self._unsent[end])]
        except (BlockingIOError, ConnectionError):
            self._unsent[end].clear()

    def _read(self, end: socket.socket) -> None:
        try:
            data = end.recv(self.read_size)
        except ConnectionError:
            data = b""
        if not data:
            end.close()
        elif end is self._console:
            self.told.console += data
        else:
            self._buffers[end] += data
            if end is self.control:
                self._take_messages()
            else:
                self._take_frames()

    def _take_messages(self) -> None:
        buffer = self._buffers[self.control]
        while len(buffer) >= 8:
            kind, length = struct.unpack_from(">II", buffer)
            assert length <= 65536
            if len(buffer) < 8 + length:
                return
            self._take_message(kind, bytes(buffer[8 : 8 + length]))
            del buffer[: 8 + length]

    def _take_message(self, kind: int, payload: bytes) -> None:
        told = self.told
        assert told.status is None, "a message after EXIT"
        assert told.error is None, "a message after ERROR"
        if kind == HELLO:
            assert int.from_bytes(payload[:4]) == VERSION
            lines = payload[4:].decode().splitlines()
            told.facts = dict(line.split("=", 1) for line in lines)
        elif kind == EVENT:
            told.events.append((payload[8:].decode(), int.from_bytes(payload[:8])))
        elif kind == EXIT:
            (told.status,) = struct.unpack(">I", payload)
        elif kind == ERROR:
            told.error = (int.from_bytes(payload[:4]), payload[4:].decode())
        else:
            self._take_of_process(kind, payload)
        told.order.append(NAMES[kind])

    def _take_of_process(self, kind: int, payload: bytes) -> None:
        told = self.told
        if kind == STARTED:
            told.started += struct.unpack(">I", payload)
        elif kind == ENDED:
            process, status = struct.unpack(">II", payload)
            assert process in told.started
            assert process not in told.statuses
            told.statuses[process] = status
        elif kind == REFUSED:
            told.refused[int.from_bytes(payload[:4])] = (
                int.from_bytes(payload[4:8]),
                payload[8:].decode(),
            )
        elif kind == INPUT_WINDOW:
            sequence, size = struct.unpack(">QI", payload)
            self._rooms[sequence] += size
            assert self._rooms[sequence] <= INPUT_AT_FIRST
            self._pump(sequence)
        else:
            assert kind == PONG
            told.pongs += struct.unpack(">Q", payload)

    def _take_frames(self) -> None:
        buffer = self._buffers[self.stream]
        while len(buffer) >= 12:
            sequence, length = struct.unpack_from(">QI", buffer)
            assert length <= 65536
            if len(buffer) < 12 + length:
                return
            if (sequence, length) == (0, 0):
                self.told.marks += 1
                del buffer[:12]
                continue
            assert sequence not in self.told.ended
            assert length <= self._windows[sequence]
            self._windows[sequence] -= length
            if length and sequence not in self.held_windows:
                self.widen(sequence, length)
            self.told.streams[sequence] += buffer[12 : 12 + length]
            if not length:
                self.told.ended.add(sequence)
            del buffer[: 12 + length]


def _ports(bus: str, control: int, stream: int) -> tuple[str, ...]:
    return (
        *("-device", f"virtio-serial-{bus}"),
        *("-chardev", f"socket,id=c0,fd={control}"),
        *("-device", "virtserialport,chardev=c0,name=sh.hyper.channel.0"),
        *("-chardev", f"socket,id=c1,fd={stream}"),
        *("-device", "virtserialport,chardev=c1,name=sh.hyper.channel.1"),
    )


def _nic(bus: str) -> tuple[str, ...]:
    return ("-netdev", "user,id=n0", "-device", f"virtio-net-{bus},netdev=n0")


def _only_child(pid: int) -> int:
    return int(_read(f"/proc/{pid}/task/{pid}/children").split()[0])


def _read(path: str) -> str:
    with open(path, encoding="ascii", errors="replace") as file:  # noqa: PTH123
        return file.read()
