"""The commands that bring bundles to registries and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hyperbuild.builder.limiting import limit_options, read_limits, space_option
from hyperbuild.builder.sharing import (
    authfile_option,
    pass_context,
    platform_option,
    policy_option,
)
from hyperbuild.converter.errors import VerificationError

if TYPE_CHECKING:
    from hyperbuild.builder.context import Context

_keys = click.option(
    "--key", "keys", multiple=True, type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE", help="Fail unless one of these public keys (PEM) has signed it.",
)  # fmt: skip


@click.command()
@click.argument("name", metavar="IMAGE|BUNDLE")
@click.argument("destination", required=False, metavar="[HOST/NAME:TAG]")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON description on stdout.")
@click.option(
    "--sign", "sign_with", type=click.Path(path_type=Path, dir_okay=False), metavar="KEY",
    help="Attach a statement of what it was made of, signed by this private key (PEM).",
)  # fmt: skip
@click.option("--no-sbom", is_flag=True, help="Do not attach an SBOM (see `sbom`).")
@authfile_option
@pass_context
def push(
    context: Context,
    /,
    *,
    name: str,
    destination: str | None,
    as_json: bool,
    sign_with: Path | None,
    no_sbom: bool,
    authfile: Path | None,
) -> None:
    """Push a BUNDLE (of `images`, or a directory) to a registry, for others to boot.

    Without a destination it is attached to the image that it was made from, where `pull` and `boot`
    of that image find it. Its SBOM (CycloneDX) is attached to the bundle. Only what the registry
    lacks is sent. The last line of stdout names the
    bundle by its digest.
    """
    from hyperbuild.builder.pushing import push_bundle

    pushed = push_bundle(context, name, destination, authfile, sign_with, with_sbom=not no_sbom)
    attached = f", attached to {pushed.subject.digest[:19]}" if pushed.subject else ""
    more = (", with its SBOM" if pushed.has_sbom else "") + (", signed" if sign_with else "")
    context.console.say(f"{pushed.sent / (1 << 20):.1f} MiB sent{attached}{more}")
    click.echo(pushed.to_json() if as_json else pushed.name)


@click.command()
@click.argument("name", metavar="IMAGE|BUNDLE")
@policy_option
@platform_option
@authfile_option
@pass_context
def pull(
    context: Context,
    /,
    *,
    name: str,
    policy: Path | None,
    platform_text: str | None,
    authfile: Path | None,
) -> None:
    """Fetch a BUNDLE (HOST/NAME:TAG or @DIGEST), or the newest attached to IMAGE, into the store.

    A transfer that was cut goes on where it was. The digest that `images` lists is the last line of
    stdout.
    """
    from hyperbuild.builder.pulling import pull_bundle

    rule = None
    if policy:
        from hyperbuild.builder.policy import read_policy
        from hyperbuild.converter.reference import parse_reference

        rule = read_policy(policy).rule_for(str(parse_reference(name)))
    click.echo(pull_bundle(context, name, platform_text, authfile, rule).digest)


@click.command()
@click.argument("name", metavar="IMAGE|BUNDLE")
@_keys
@platform_option
@authfile_option
@pass_context
def verify(
    context: Context,
    /,
    *,
    name: str,
    keys: tuple[Path, ...],
    platform_text: str | None,
    authfile: Path | None,
) -> None:
    """Read all of a bundle, wherever it is, and check it against every digest that names it.

    A directory or a digest of `images` is read here; anything else is fetched from its registry,
    and kept nowhere. What it is checked against is printed: the digest of its root file system, or
    in a registry of the whole bundle.
    """
    from hyperbuild.builder.checking import verify_bundle

    click.echo(verify_bundle(context, name, keys, platform_text, authfile))


@click.command()
@click.argument("name", metavar="IMAGE|BUNDLE")
@_keys
@policy_option
@click.option(
    "--image", metavar="IMAGE",
    help="Where the image is that it was made from, if not where the bundle says.",
)  # fmt: skip
@click.option(
    "--kernel", "with_kernel", is_flag=True,
    help="Build the kernel, too; else the cache's of the same key is compared.",
)  # fmt: skip
@click.option("--source", metavar="FILE|DIR|URL", help="The kernel's source, as of `kernel build`.")
@click.option("--sha256", metavar="HEX", help="Digest of the source; a URL needs it.")
@platform_option
@authfile_option
@limit_options
@space_option
@pass_context
def rebuild(
    context: Context,
    /,
    *,
    name: str,
    keys: tuple[Path, ...],
    policy: Path | None,
    image: str | None,
    with_kernel: bool,
    source: str | None,
    sha256: str | None,
    platform_text: str | None,
    authfile: Path | None,
    **limits: Any,
) -> None:
    """Make a BUNDLE again from what it says it was made of, and compare the bytes.

    The image is fetched anew by its digest, and nothing is kept. stdout has a line for each part:
    same, differs (and why it may), given (a kernel of its maker's own), or unknown (a kernel that
    was not compared). The exit status is 0 if all that can be made again is the same.
    """
    from hyperbuild.builder.rebuilding import RebuildOptions, rebuild_bundle

    options = RebuildOptions(
        name,
        keys,
        policy,
        image,
        with_kernel,
        source,
        sha256,
        platform_text,
        authfile,
        read_limits(limits),
    )
    parts = rebuild_bundle(context, options)
    for part in parts:
        click.echo(f"{part.name:<12}{part.verdict:<9}{part.text}")
    others = [part.name for part in parts if not part.is_good]
    if others:
        raise VerificationError(
            f"{name} could not be made again as it is: {', '.join(others)}; see above"
        )


@click.command()
@click.argument("name", metavar="IMAGE|BUNDLE")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Write it into FILE instead of to stdout.",
)  # fmt: skip
@click.option(
    "--attached", is_flag=True,
    help="Fetch the one that is attached to the bundle in its registry.",
)  # fmt: skip
@click.option(
    "--key", "keys", multiple=True, type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE", help="With --attached: fail unless one of these public keys has signed it.",
)  # fmt: skip
@platform_option
@authfile_option
@pass_context
def sbom(
    context: Context,
    /,
    *,
    name: str,
    output: Path | None,
    attached: bool,
    keys: tuple[Path, ...],
    platform_text: str | None,
    authfile: Path | None,
) -> None:
    """Print the SBOM of a BUNDLE, or of the bundle of IMAGE, as CycloneDX 1.6 JSON.

    It is made of what its root file system holds: packages of dpkg, apk and rpm, of Python, npm,
    Ruby, Java and PHP, what Go and Rust programs were built from, kernel and init. What could not
    be read is warned of. The same bundle has the same SBOM, byte by byte.
    """
    from hyperbuild.builder.materials import fetch_sbom, sbom_of
    from hyperbuild.converter.files import named_output, write_atomically

    if keys and not attached:
        raise click.UsageError("--key is for SBOMs that are --attached.")
    place = named_output(output) if output else None
    if attached:
        content = fetch_sbom(context, name, keys, platform_text, authfile)
    else:
        content = sbom_of(context, name, platform_text, authfile)
    if place:
        write_atomically(place, content)
    else:
        click.echo(content, nl=False)
