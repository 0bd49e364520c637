"""What earlier versions have pushed and signed is read, trusted and booted by this one.

data/ has documents as they wrote them: bundle-1.json at commit 8e4d315, of a kernel of the user's
own; the rest at f78721e, by `build` and `push --sign`, statement-1.pub being the signer's key.
"""

from __future__ import annotations

import json
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hyperbuild.builder import artifact
from hyperbuild.builder.policy import Rule
from hyperbuild.builder.signing import load_key, signed_payload
from hyperbuild.builder.statement import read_statement
from hyperbuild.converter.oci import digest_of
from hyperbuild.launcher.bundle import PROTOCOL_VERSION, Bundle
from tests.builder import parcels
from tests.builder.parcels import push_cli, refused
from tests.support.layers import f, layer, layout
from tests.support.registry import push

if TYPE_CHECKING:
    from tests.conftest import KernelOf, RunCli

DATA = Path(__file__).parent / "data"
HEADER = Path(__file__).parents[2] / "initramfs/src/channel.h"


def golden(name: str) -> bytes:
    return (DATA / name).read_bytes()


def test_documents_of_every_version_are_read() -> None:
    first, second = (Bundle.from_json(golden(f"bundle-{n}.json"), "x") for n in (1, 2))
    for bundle in (first, second):
        assert bundle.process.args == ("/bin/busybox", "echo", "here I am")
        assert bundle.kernel and bundle.kernel.version == "6.1.192-hyper"
        # Nobody wrote down what its hyperstart speaks, nor how it was made.
        assert (bundle.protocol, bundle.build) == (None, None)
    assert first.kernel and first.kernel.options is None
    assert second.kernel and second.kernel.options and "CONFIG_FS_DAX" in second.kernel.options
    assert second.boot and second.boot.options == {"memory": "128M", "env": ["WHO=me"]}
    assert second.boot.smoke and second.boot.smoke.log == ("here I am",)


def test_the_manifest_of_a_bundle_of_version_2_is_read() -> None:
    bundle = Bundle.from_json(golden("bundle-2.json"), "x")
    found = artifact.read_artifact(golden("manifest-1.json"), "x")
    artifact.check_artifact(found, bundle, "x")
    assert found.config.digest == digest_of(golden("bundle-2.json"))
    # What is written today has the same shape.
    layers = [*(artifact.chunk_descriptor("erofs", chunk) for chunk in found.chunks)]
    layers += [artifact.file_descriptor(it.media_type, it.digest, it.size) for it in found.files]
    made = datetime(2025, 11, 26, 21, 20, tzinfo=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    today = artifact.write_artifact(golden("bundle-2.json"), layers, found.subject, made)
    assert json.loads(today) == json.loads(golden("manifest-1.json"))


def test_a_statement_of_build_type_1_is_trusted() -> None:
    key = load_key(DATA / "statement-1.pub")
    envelope = golden("statement-1.json")
    digest = digest_of(golden("manifest-1.json"))
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert Rule((key,)).accept([envelope], digest, "it", now) == envelope
    statement = read_statement(signed_payload(envelope, [key]) or b"")
    assert statement.digests == {digest, digest_of(golden("bundle-2.json"))}
    assert (statement.hyperbuild, statement.tools) == ("0.1.0", {})
    assert not statement.contradicts(golden("bundle-2.json"))


def test_host_and_guest_speak_the_same() -> None:
    found = re.search(r"PROTOCOL_VERSION = (\d+)", HEADER.read_text())
    assert found and int(found[1]) == PROTOCOL_VERSION


@pytest.mark.boot
@pytest.mark.parametrize("version", [1, 2])
def test_a_bundle_of_an_earlier_version_boots_by_digest_on_a_clean_store(
    version: int, kernel_of: KernelOf, bare_registry: str, run_cli: RunCli, tmp_path: Path
) -> None:
    """With an initramfs that this version could not talk to, as none of it is booted."""
    kernel_of("dax")
    busybox = f("bin/busybox", Path("/bin/busybox").read_bytes(), mode=0o755)
    config = {"Cmd": ["/bin/busybox", "echo", "here I am"]}
    image = f"{bare_registry}/{tmp_path.name.lower()}/app:1"
    push(layout(tmp_path / "image", layer(busybox), config=config), image)
    assert run_cli("convert", image, "-o", tmp_path / "bundle").returncode == 0
    document = tmp_path / "bundle/bundle.json"
    new, old = json.loads(document.read_bytes()), json.loads(golden(f"bundle-{version}.json"))
    (tmp_path / "bundle/initramfs.cpio").write_bytes(b"an old one")
    old["image"], old["rootfs"] = new["image"], new["rootfs"]
    old["kernel"] = {name: new["kernel"][name] for name in old["kernel"]}
    old["initramfs"] = {"digest": parcels.digest_of(tmp_path / "bundle/initramfs.cpio")}
    document.write_text(json.dumps(old, indent=2) + "\n")

    key = tmp_path / "ci.key"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", key], check=True)
    public = ["openssl", "pkey", "-in", key, "-pubout", "-out", tmp_path / "ci.pub"]
    subprocess.run(public, check=True)
    policy = tmp_path / "policy.toml"
    policy.write_text('[keys]\nci="ci.pub"\n[[allow]]\nimages=["*"]\nkeys=["ci"]\n')
    name = push_cli(run_cli, tmp_path / "bundle", "--sign", key)["name"]

    clean = {"XDG_DATA_HOME": str(tmp_path / "clean")}
    done = run_cli("boot", name, "--timeout", "60", env=clean)
    assert (done.returncode, done.stdout.strip()) == (0, "here I am"), done.stderr
    assert "its hyperstart is of another version" in done.stderr
    # What was signed is its document as it was written then, also once it is in a store.
    clean = {"XDG_DATA_HOME": str(tmp_path / "trusted")}
    done = run_cli("pull", name, "--policy", policy, env=clean)
    assert done.returncode == 0, done.stderr
    digest = done.stdout.strip()
    assert run_cli("verify", digest, "--key", tmp_path / "ci.pub", env=clean).returncode == 0
    done = run_cli("boot", "--policy", policy, digest, "--timeout", "60", env=clean)
    assert (done.returncode, done.stdout.strip()) == (0, "here I am"), done.stderr
    refused(run_cli, "does not say how it was made", "rebuild", digest, env=clean)
