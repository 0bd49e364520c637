"""The floor of the house: the one exception family, and how names from outside are shown.

The family::

    HyperbuildError             exit status 1; its text is the whole message
    |-- InputError              what the user gave does not fit (a reference, a path, an option)
    |   `-- UsageError          seen by its words alone: exit status 2
    |-- NotFoundError           the thing named does not exist; the text lists what does
    |-- AccessError             refused: credentials, permissions
    |-- UnavailableError        a service or a file cannot be reached or read now
    |-- VerificationError       bytes are not what their digest or size declares
    |-- ContentError            verified bytes that break their format, or hostile ones
    |   `-- NoImageError        an artifact of another kind than an image
    `-- ToolError               an outside tool is missing or failed

Each room raises these or its own subclasses. A text reads "what, where; what to do".
"""

from __future__ import annotations

import re

#: Compiled when a name needs it: that takes a tenth of what a boot does before the hypervisor runs.
_UNPRINTABLE = r"[^\x20-\x7e\xa0-\U0010ffff]|[\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"


def printable(name: str | bytes) -> str:
    """Return name on one line, free of control characters (they become ``\\xNN`` or ``\\uNNNN``).

    Names come from images and registries: shown raw they could move a terminal's cursor.
    """
    text = name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else name
    if text.isascii() and text.isprintable():
        return text
    return re.sub(
        _UNPRINTABLE,
        lambda match: (
            match[0].encode("ascii", "backslashreplace").decode()
            if ord(match[0]) > 0x7F
            else f"\\x{ord(match[0]):02x}"
        ),
        text,
    )


class HyperbuildError(Exception):
    """Base of every failure that hyperbuild explains; ``str()`` is one printable line."""

    exit_status = 1
    #: Whether that is the status of every command; `boot` has others for its own failures.
    is_status_final = False

    def __str__(self) -> str:
        return printable(super().__str__())


class InputError(HyperbuildError):
    """What the user gave does not fit."""


class UsageError(InputError):
    """An option or argument that no work is needed to see the mistake of."""

    exit_status = 2
    is_status_final = True


class NotFoundError(HyperbuildError):
    """The thing named does not exist."""


class AccessError(HyperbuildError):
    """Access was refused."""


class UnavailableError(HyperbuildError):
    """A service or a file cannot be reached or read now; trying again may help."""


class VerificationError(HyperbuildError):
    """Bytes are not what their digest or size declares."""


class ContentError(HyperbuildError):
    """Verified bytes that break their format, or that no container runtime would accept."""


class NoImageError(ContentError):
    """What was asked for, where, is another kind of artifact: ``config_type`` says which."""

    def __init__(self, where: str, config_type: str) -> None:
        super().__init__(
            f"{where} is not a container image: its config is of type "
            f"{printable(config_type)!r}; name an image"
        )
        self.where = where
        self.config_type = config_type


class ToolError(HyperbuildError):
    """An outside tool is missing or failed."""


def explained(error: Exception) -> str:
    """Return what a person is told of an error, whatever it is."""
    if isinstance(error, HyperbuildError):
        return str(error)
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror or error}"
    return f"a defect of hyperbuild ({type(error).__name__}: {error}); report it with --debug"
