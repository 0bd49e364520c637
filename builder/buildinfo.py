"""What a bundle's bytes depend on beyond the image: the object ``build`` of bundle.json.

{"maker":      the version of how bundles are made,
 "epoch":      SOURCE_DATE_EPOCH, or null if it was not set,
 "align":      whether large files begin at huge pages,
 "kernel":     {"profile", "fragments": [{"name", "text"}, …], "source", "toolchain", "key"}, or
               null: there is none, or it is a file of the user's own,
 "hyperstart": the digest of hyperstart's sources, or null if there is no initramfs}

Nothing of the machine is in it, and no time: a kernel's toolchain is written in its bytes, too, and
its key is the digest of all that they depend on. What else made a bundle (the compiler of
hyperstart, hyperbuild's version) stands in its statement alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hyperbuild.converter.digests import check_digest
from hyperbuild.converter.errors import ContentError, HyperbuildError
from hyperbuild.kernel.kconfig import Fragment, parse_fragment, spell_fragment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hyperbuild.kernel.build import Kernel

#: Raised when a bundle made of the same things would be another one.
MAKER_VERSION = "3"


@dataclass(frozen=True, slots=True)
class KernelBuild:
    """What a HyperKernel was built of; ``fragments`` are those beyond the profile's own.

    ``source`` and ``key`` are digests ("sha256:…"), ``toolchain`` the versions of two tools.
    """

    profile: str
    fragments: tuple[Fragment, ...]
    source: str
    toolchain: str
    key: str

    def document(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        fragments = [{"name": it.name, "text": spell_fragment(it)} for it in self.fragments]
        return {
            "profile": self.profile,
            "fragments": fragments,
            "source": self.source,
            "toolchain": self.toolchain,
            "key": self.key,
        }


@dataclass(frozen=True, slots=True)
class BuildInfo:
    """What decides a bundle's bytes, as in the module's picture."""

    maker: str
    epoch: int | None
    aligns: bool
    kernel: KernelBuild | None
    hyperstart: str | None

    def document(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {
            "maker": self.maker,
            "epoch": self.epoch,
            "align": self.aligns,
            "kernel": self.kernel and self.kernel.document(),
            "hyperstart": self.hyperstart,
        }


def describe_build(kernel: Kernel, fragments: tuple[Fragment, ...]) -> KernelBuild | None:
    """Return what kernel was built of: its profile and fragments; None for a user's own."""
    if not kernel.key:
        return None
    profile = kernel.profile.partition("+")[0]
    key = f"sha256:{kernel.key}"
    return KernelBuild(profile, fragments, kernel.source, kernel.toolchain, key)


def read_build(data: Mapping[str, Any] | None, where: str) -> BuildInfo:
    """Read a ``document``; ContentError if it is of another maker, or not what it should be."""
    if data is None:
        raise ContentError(
            f"{where} does not say how it was made: an earlier hyperbuild made it; convert the "
            "image again"
        )
    try:
        return _read(data)
    except (LookupError, TypeError, ValueError, AttributeError, HyperbuildError) as error:
        raise ContentError(
            f"{where}: build is nothing that this hyperbuild knows; use the one that made it"
        ) from error


def _read(data: Mapping[str, Any]) -> BuildInfo:
    maker, epoch, aligns, kernel, hyperstart = (
        data[name] for name in ("maker", "epoch", "align", "kernel", "hyperstart")
    )
    fits = isinstance(maker, str) and type(epoch) in (int, type(None)) and type(aligns) is bool
    if len(data) != 5 or not fits:
        raise ValueError
    return BuildInfo(
        maker,
        epoch,
        aligns,
        None if kernel is None else _read_kernel(kernel),
        None if hyperstart is None else check_digest(hyperstart, "hyperstart"),
    )


def _read_kernel(data: Mapping[str, Any]) -> KernelBuild:
    profile, toolchain = data["profile"], data["toolchain"]
    if len(data) != 5 or not isinstance(profile, str) or not isinstance(toolchain, str):
        raise ValueError
    # What cannot be encoded has no digest for a statement to name.
    texts = [(str(it["name"]), it["text"].encode().decode()) for it in data["fragments"]]
    fragments = tuple(parse_fragment(name, text) for name, text in texts)
    source, key = check_digest(data["source"], "source"), check_digest(data["key"], "key")
    return KernelBuild(profile, fragments, source, toolchain, key)
