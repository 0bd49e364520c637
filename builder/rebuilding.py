"""``hyperbuild rebuild``: a bundle made again from what it says it was made of, and compared.

Nothing that the bundle holds is used, nor what an earlier conversion has left: the image comes
anew, by its digest, and its layers are read into a scratch directory; hyperstart is compiled there.
A kernel takes minutes, so it is built only if asked; else the cache's of the same key is compared.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperbuild.builder.buildinfo import MAKER_VERSION, KernelBuild, read_build
from hyperbuild.builder.bundling import Parts, make_bundle
from hyperbuild.builder.converting import Request, ordered
from hyperbuild.builder.parts import make_initramfs
from hyperbuild.builder.provenance import Claim, find_claim
from hyperbuild.converter import files
from hyperbuild.converter.errors import InputError, VerificationError
from hyperbuild.converter.limits import DEFAULT_LIMITS, Limits
from hyperbuild.converter.reference import parse_reference
from hyperbuild.kernel.build import Kernel, build_kernel, kernel_key, load_kernel
from hyperbuild.kernel.source import find_source
from hyperbuild.kernel.toolchain import toolchain

if TYPE_CHECKING:
    from hyperbuild.builder.buildinfo import BuildInfo
    from hyperbuild.builder.context import Context
    from hyperbuild.initramfs.build import Initramfs
    from hyperbuild.launcher.bundle import Bundle

SAME, DIFFERS, GIVEN, UNKNOWN = "same", "differs", "given", "unknown"
_DEFECT = "of the same things other bytes were made; report it"


@dataclass(frozen=True, slots=True)
class RebuildOptions:
    """Which bundle, whose (as of ``verify``), where its image is, and whether to build a kernel.

    ``source`` and ``sha256`` name the kernel's source as for ``kernel build``.
    """

    name: str
    keys: tuple[Path, ...] = ()
    policy: Path | None = None
    image: str | None = None
    with_kernel: bool = False
    source: str | None = None
    sha256: str | None = None
    platform: str | None = None
    authfile: Path | None = None
    limits: Limits = DEFAULT_LIMITS


@dataclass(frozen=True, slots=True)
class Part:
    """What came of one part of a bundle: a verdict, and its digest or why that may be."""

    name: str
    verdict: str
    text: str

    @property
    def is_good(self) -> bool:
        """Whether it is what the bundle says, as far as that can be made again."""
        return self.verdict in (SAME, GIVEN)


def rebuild_bundle(context: Context, options: RebuildOptions) -> list[Part]:
    """Make a bundle anew and compare it part by part.

    VerificationError: nobody who may has signed it, or the image is another; ContentError: it does
    not say how it was made; else as of ``pull_bundle`` and ``convert_image``.
    """
    if (options.source or options.sha256) and not options.with_kernel:
        raise InputError("--source and --sha256 are for the kernel to build; add --kernel")
    claim = find_claim(
        context,
        options.name,
        keys=options.keys,
        policy=options.policy,
        platform_text=options.platform,
        authfile=options.authfile,
    )
    build = read_build(claim.bundle.build, claim.name)
    with context.scratch() as room:
        fresh = context.replace(data=room / "data", cache=room / "cache", epoch=build.epoch)
        fresh.cache.mkdir()
        kernel = _kernel(context, fresh, options, claim.bundle, build)
        initramfs = make_initramfs(fresh) if claim.bundle.initramfs else None
        made = _make(fresh, options, claim.bundle, build, kernel, initramfs)
    return [
        *([_provenance(claim)] if claim.statement else []),
        _rootfs(claim, build, made),
        *([kernel.part] if kernel else []),
        *([_initramfs(claim, build, initramfs)] if initramfs else []),
        _document(claim, made),
    ]


@dataclass(frozen=True, slots=True)
class _Compared:
    """What came of the kernel: the one made or found, None if there is none to compare with."""

    part: Part
    kernel: Kernel | None = None


def _kernel(
    context: Context, fresh: Context, options: RebuildOptions, bundle: Bundle, build: BuildInfo
) -> _Compared | None:
    if bundle.kernel is None:
        return None
    digest, then = bundle.kernel.digest, build.kernel
    if then is None:
        return _Compared(Part("kernel", GIVEN, f"{digest}, a file of its maker's own"))
    if options.with_kernel:
        return _built(context, fresh, options, then, digest)
    kernel = load_kernel(context.cache, then.key.partition(":")[2])
    if kernel is None:
        lacking = f"{digest} is not in the cache to compare with; --kernel builds it anew"
        return _Compared(Part("kernel", UNKNOWN, lacking))
    return _compared(kernel, digest, f"{digest}, by the cache's; --kernel builds it anew")


def _built(
    context: Context, fresh: Context, options: RebuildOptions, then: KernelBuild, digest: str
) -> _Compared:
    """Build the kernel that then describes; only where it can become the same."""
    source = find_source(context.cache, options.source, options.sha256, progress=context.console)
    if source.digest != then.source:
        raise InputError(
            f"the kernel was made of a source of {then.source}, and {source.place} is "
            f"{source.digest}; give that one by --source"
        )
    if toolchain() != then.toolchain:
        other = f"{digest} was built by {then.toolchain}, and here is {toolchain()}"
        return _Compared(Part("kernel", DIFFERS, other))
    if kernel_key(source, then.profile, then.fragments) != then.key.partition(":")[2]:
        other = f"{digest} has other options or patches than this hyperbuild has for its profile"
        return _Compared(Part("kernel", DIFFERS, other))
    context.console.say(f"building the kernel anew ({then.profile}); this takes some minutes")
    kernel = build_kernel(
        fresh.cache,
        source,
        profile=then.profile,
        more=then.fragments,
        jobs=os.cpu_count() or 1,
        progress=context.console,
    )
    return _compared(kernel, digest, digest)


def _compared(kernel: Kernel, digest: str, said: str) -> _Compared:
    with kernel.path.open("rb") as file:
        seen = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    part = Part("kernel", SAME, said) if seen == digest else _other("kernel", digest, seen, _DEFECT)
    return _Compared(part, replace(kernel, digest=seen))


def _make(
    fresh: Context,
    options: RebuildOptions,
    bundle: Bundle,
    build: BuildInfo,
    compared: _Compared | None,
    initramfs: Initramfs | None,
) -> Bundle:
    """Convert the image, and return the bundle that it makes with what is given."""
    kernel = (compared.kernel if compared else None) or _stand_in(bundle)
    fragments = build.kernel.fragments if build.kernel else ()
    request = Request(
        _image(options, bundle),
        bundle.image.platform,
        options.authfile,
        rootfs_format=bundle.rootfs.format,
        limits=options.limits,
        aligns=build.aligns,
        boot=bundle.boot,
        with_verity=bundle.rootfs.verity is not None,
    )
    with ordered(fresh, request, Parts(kernel, initramfs, fragments)) as (_, order):
        seen, named = order.image.manifest.digest, bundle.image.manifest_digest
        if seen != named:
            raise VerificationError(
                f"{request.image} is {seen}, and the bundle was made from {named}; say by --image "
                "where that is"
            )
        # Its name is that by which it was asked for, wherever it is now.
        image = replace(order.image, reference=parse_reference(bundle.image.reference))
        with files.draft(fresh.cache) as draft:
            made, _ = make_bundle(replace(order, image=image), draft.fd)
    if compared and compared.kernel is None:
        # Of what is not here to compare, the document is taken at its word.
        recorded = (bundle.build or {}).get("kernel")
        made = made.replace(kernel=bundle.kernel, build={**(made.build or {}), "kernel": recorded})
    return made


def _image(options: RebuildOptions, bundle: Bundle) -> str:
    reference = parse_reference(options.image or bundle.image.reference)
    if reference.transport == "docker":
        return str(reference.replace(tag="", digest=bundle.image.manifest_digest))
    return str(reference)


def _stand_in(bundle: Bundle) -> Kernel | None:
    """Describe the kernel of a bundle by what its document says alone."""
    if bundle.kernel is None:
        return None
    named = bundle.kernel
    return Kernel(Path(), named.version, named.digest, 0, named.config_digest, "", "")


def _provenance(claim: Claim) -> Part:
    if claim.statement and claim.statement.contradicts(claim.document):
        return Part("provenance", DIFFERS, "it says another thing than bundle.json; sign it anew")
    signed = "signed by who may" if claim.is_trusted else "whose signature no --key was given for"
    return Part("provenance", SAME, f"as bundle.json has it, {signed}")


def _rootfs(claim: Claim, build: BuildInfo, made: Bundle) -> Part:
    digest, seen = claim.bundle.rootfs.digest, made.rootfs.digest
    if digest == seen:
        return Part("rootfs", SAME, digest)
    return _other("rootfs", digest, seen, _other_maker(claim, build) or _DEFECT)


def _other_maker(claim: Claim, build: BuildInfo) -> str:
    """Say by which other hyperbuild a bundle was made; "" if it was this one, for all we know."""
    from importlib.metadata import version

    then, now = claim.statement.hyperbuild if claim.statement else "", version("hyperbuild-vm")
    if then and then != now:
        return f"hyperbuild {then} made it, and this is {now}"
    if build.maker != MAKER_VERSION:
        return f"a hyperbuild of maker {build.maker} made it, and this is of {MAKER_VERSION}"
    return ""


def _initramfs(claim: Claim, build: BuildInfo, made: Initramfs) -> Part:
    digest = claim.bundle.initramfs or ""
    if digest == made.digest:
        return Part("initramfs", SAME, digest)
    then = claim.statement.tools.get("initramfs", "") if claim.statement else ""
    if build.hyperstart != made.source:
        why = _other_maker(claim, build) or "another hyperbuild's hyperstart is in it"
    elif then == made.tools:
        why = _DEFECT
    else:
        why = f"compiled by {then or 'other tools, maybe'}, and here by {made.tools}"
    return _other("initramfs", digest, made.digest, why)


def _other(name: str, digest: str, seen: str, why: str) -> Part:
    return Part(name, DIFFERS, f"{digest} is {seen} here: {why}")


def _document(claim: Claim, made: Bundle) -> Part:
    raw = made.to_json()
    if raw == claim.document:
        return Part("bundle.json", SAME, claim.digest)
    names = ", ".join(_members(json.loads(claim.document), json.loads(raw)))
    return Part("bundle.json", DIFFERS, f"in {names or 'how it is written, not what it says'}")


def _members(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return the names of the members that differ, those of inner objects as OUTER.INNER."""
    found = []
    for name in sorted(then.keys() | now.keys()):
        one, other = then.get(name), now.get(name)
        if one == other:
            continue
        if isinstance(one, dict) and isinstance(other, dict):
            inner = [it for it in sorted(one.keys() | other.keys()) if one.get(it) != other.get(it)]
            found += [f"{name}.{it}" for it in inner]
        else:
            found.append(name)
    return found
