"""Who has signed a bundle, and what a policy makes of it: nothing unsigned is pulled or booted."""

from __future__ import annotations

import base64
import json
import subprocess
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from hyperbuild.builder.policy import Rule, read_policy
from hyperbuild.builder.signing import load_key, load_signer, sign, signed_payload
from hyperbuild.builder.statement import PAYLOAD_TYPE, read_statement, write_statement
from hyperbuild.converter.errors import ContentError, InputError, VerificationError
from hyperbuild.converter.oci import digest_of
from tests.builder.parcels import in_store, push_cli, refused, write_parcel
from tests.launcher.support import DIGEST, make_files

if TYPE_CHECKING:
    from pathlib import Path

    from tests.builder.parcels import Parcel
    from tests.conftest import RunCli

OTHER = "sha256:" + "f" * 64
NOW = datetime(2026, 6, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a directory of key pairs by openssl: ci and foe, and one each of other kinds."""
    directory = tmp_path_factory.mktemp("keys")
    kinds = {
        "ci": ("ed25519",),
        "foe": ("ed25519",),
        "ecdsa": ("EC", "-pkeyopt", "ec_paramgen_curve:P-256"),
        "rsa": ("RSA", "-pkeyopt", "rsa_keygen_bits:3072"),
    }
    for name, kind in kinds.items():
        key = directory / f"{name}.key"
        subprocess.run(
            ["openssl", "genpkey", "-algorithm", *kind, "-out", key],
            check=True,
            capture_output=True,
        )
        subprocess.run(
            ["openssl", "pkey", "-in", key, "-pubout", "-out", key.with_suffix(".pub")], check=True
        )
    return directory


def policy_of(directory: Path, keys: Path, images: str, **more: Any) -> Path:
    path = directory / "policy.toml"
    lines = [f'[keys]\nci = "{keys}/ci.pub"', f'[[allow]]\nimages = ["{images}"]\nkeys = ["ci"]']
    lines += [f"{name.replace('_', '-')} = {value}" for name, value in more.items()]
    path.write_text("\n".join(lines) + "\n")
    return path


def statement(made: str = "2026-05-01T00:00:00Z", manifest: str = DIGEST) -> bytes:
    return write_statement(
        make_files().document,
        manifest=manifest,
        name="here/app",
        made=made,
        version="0",
        tools={},
    )


@pytest.mark.parametrize("kind", ["ci", "ecdsa", "rsa"])
def test_what_one_key_signs_no_other_has_signed(keys: Path, kind: str) -> None:
    envelope = sign(statement(), load_signer(keys / f"{kind}.key"))
    assert signed_payload(envelope, [load_key(keys / f"{kind}.pub")]) == statement()
    assert signed_payload(envelope, [load_key(keys / "foe.pub")]) is None
    both = [load_key(keys / "foe.pub"), load_key(keys / f"{kind}.pub")]
    assert signed_payload(envelope, both) == statement()
    fields = json.loads(envelope)
    payload = base64.b64decode(fields["payload"]).replace(b"here/app", b"here/bad")
    fields["payload"] = base64.b64encode(payload).decode()
    assert signed_payload(json.dumps(fields).encode(), both) is None


def test_the_statement_is_provenance_that_others_read(keys: Path) -> None:
    said = json.loads(statement())
    assert said["_type"] == "https://in-toto.io/Statement/v1"
    assert said["predicateType"] == "https://slsa.dev/provenance/v1"
    sources = said["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert {source.get("uri") for source in sources} >= {"test"}
    document = digest_of(make_files().document)
    assert read_statement(statement()).digests == {DIGEST, document}


@pytest.mark.parametrize(
    "envelope",
    [
        b"",
        b"[]",
        b"{}",
        json.dumps({"payload": "!", "payloadType": PAYLOAD_TYPE, "signatures": []}).encode(),
        json.dumps({"payload": "", "payloadType": "text/plain", "signatures": []}).encode(),
        b"[" * 100_000,
    ],
)
def test_what_is_no_envelope(keys: Path, envelope: bytes) -> None:
    rule = Rule((load_key(keys / "ci.pub"),))
    with pytest.raises(VerificationError):
        rule.accept([envelope], DIGEST, "it", NOW)


@pytest.mark.parametrize("payload", [b"", b"{}", b"[]", b'{"_type": 1, "predicateType": 2}'])
def test_what_is_signed_but_no_statement(keys: Path, payload: bytes) -> None:
    with pytest.raises(ContentError):
        read_statement(payload)
    rule = Rule((load_key(keys / "ci.pub"),))
    envelope = sign(payload, load_signer(keys / "ci.key"))
    with pytest.raises(VerificationError, match="has a signature that is none"):
        rule.accept([envelope], DIGEST, "it", NOW)


def test_a_rule_names_why_it_accepts_nothing(keys: Path) -> None:
    signer, key = load_signer(keys / "ci.key"), load_key(keys / "ci.pub")
    rule = Rule((key,), timedelta(days=90))
    good = sign(statement(), signer)
    bad = {
        "is not signed": [],
        "signed, but by no key that may": [sign(statement(), load_signer(keys / "foe.key"))],
        "another bundle's": [sign(statement(manifest=OTHER), signer)],
        "longer ago than the 90 days": [sign(statement("2026-01-01T00:00:00Z"), signer)],
    }
    for said, envelopes in bad.items():
        with pytest.raises(VerificationError, match=said):
            rule.accept(envelopes, DIGEST, "it", NOW)
        # One that is good makes up for any that are not.
        assert rule.accept([*envelopes, good], DIGEST, "it", NOW) == good


def test_the_first_rule_that_fits_a_name_counts(tmp_path: Path, keys: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(
        f"""
        [keys]
        ci = "{keys}/ci.pub"
        foe = "{keys}/foe.pub"
        [[allow]]
        images = ["lan/app:*", "lan/web*"]
        keys = ["ci"]
        [[allow]]
        images = ["lan/*"]
        keys = ["ci", "foe"]
        max-age-days = 3
        """
    )
    policy = read_policy(path)
    assert len(policy.rule_for("lan/app:1").keys) == 1
    assert policy.rule_for("lan/db:1").max_age == timedelta(days=3)
    with pytest.raises(VerificationError, match="wan/app:1 is allowed by no rule of"):
        policy.rule_for("wan/app:1")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("keys = [", "not TOML"),
        ("x = " + "[" * 5000, "is not TOML"),
        ("#" * (1 << 20) + "#", "is larger than 1 MiB: not a policy"),
        ("", "missing or no table"),
        ("keys = {}", r"no \[\[allow\]\]"),
        ("[keys]\n[[allow]]\nimages = ['x']\nkeys = ['ci']", "no key 'ci'"),
        ("[keys]\n[[allow]]\nimages = 'x'\nkeys = ['ci']", "no key 'ci'"),
        (
            "[keys]\nci = 'CI'\n[[allow]]\nimages = 'x'\nkeys = ['ci']",
            "images is missing or no list",
        ),
        ("[keys]\nci = 'CI'\n[[allow]]\nkeys = ['ci']", "images is missing"),
        ("[keys]\nci = 'CI'\n[[allow]]\nimage = ['x']\nkeys = ['ci']", "'image' is unknown"),
        ("[keys]\nci = 'CI'\n[[alow]]\nimages = ['x']\nkeys = ['ci']", "'alow' is unknown"),
        (
            "[keys]\nci = 'CI'\n[[allow]]\nimages = ['x']\nkeys = ['ci']\nmax-age-days = 'x'",
            "not a number of days",
        ),
        ("[keys]\nci = 3", "ci is no text"),
        ("[keys]\nci = 'policy.toml'", "holds no public key"),
    ],
)
def test_a_policy_that_is_none(tmp_path: Path, keys: Path, text: str, said: str) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text.replace("CI", f"{keys}/ci.pub"))
    with pytest.raises(InputError, match=said):
        read_policy(path)


def test_files_that_hold_no_key(tmp_path: Path, keys: Path) -> None:
    for path in (keys / "ci.pub", tmp_path / "text"):
        path.touch()
        with pytest.raises(InputError, match="no private key that can sign"):
            load_signer(path)
    locked = tmp_path / "locked.key"
    encrypt = ["openssl", "pkey", "-aes256", "-passout", "pass:x", "-in", keys / "ci.key"]
    subprocess.run([*encrypt, "-out", locked], check=True)
    with pytest.raises(InputError, match="no private key that can sign"):
        load_signer(locked)
    with pytest.raises(InputError, match="no public key"):
        load_key(keys / "ci.key")


def test_a_signed_bundle_passes_a_policy_and_no_other_does(
    parcel: Parcel, keys: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    policy = policy_of(tmp_path, keys, parcel.image)
    boot = ("boot", "--policy", policy, "--timeout", "20", parcel.image)
    push_cli(run_cli, parcel.directory)
    refused(run_cli, "is not signed", "pull", parcel.image, "--policy", policy)
    refused(run_cli, "is not signed", "verify", parcel.image, "--key", keys / "ci.pub")
    assert "is not signed" in run_cli(*boot).stderr
    push_cli(run_cli, parcel.directory, "--sign", keys / "foe.key")
    refused(run_cli, "by no key that may", "pull", parcel.image, "--policy", policy)
    assert parcel.bundle.rootfs.digest not in in_store(tmp_path)
    # Signed anew, nothing of the bundle is sent again.
    assert push_cli(run_cli, parcel.directory, "--sign", keys / "ci.key")["sent"] == 0
    assert run_cli("verify", parcel.image, "--key", keys / "ci.pub").returncode == 0
    refused(run_cli, "no key that may", "verify", parcel.image, "--key", keys / "rsa.pub")
    done = run_cli("pull", parcel.image, "--policy", policy)
    assert done.returncode == 0, done.stderr
    digest = done.stdout.strip()
    # What was pulled keeps its signature; its kernel is none, so a boot gets no further.
    assert run_cli("verify", digest, "--key", keys / "ci.pub").returncode == 0
    for name in (digest, parcel.image):
        done = run_cli("boot", "--policy", policy, "--timeout", "20", name)
        assert "signed" not in done.stderr
        assert "QEMU could not run the VM" in done.stderr
    refused_by = policy_of(tmp_path, keys, "elsewhere/*")
    assert "is allowed by no rule" in run_cli("boot", "--policy", refused_by, digest).stderr


def test_a_newer_bundle_that_nobody_may_sign_is_passed_over(
    parcel: Parcel, keys: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    policy = policy_of(tmp_path, keys, parcel.image)
    push_cli(run_cli, parcel.directory, "--sign", keys / "ci.key")
    other = write_parcel(tmp_path / "other", parcel.image, parcel.digest, seed=5)
    push_cli(run_cli, other.directory, env={"SOURCE_DATE_EPOCH": "4000000000"})
    done = run_cli("pull", parcel.image, "--policy", policy)
    assert done.returncode == 0, done.stderr
    assert parcel.bundle.rootfs.digest in in_store(tmp_path)
    assert other.bundle.rootfs.digest not in in_store(tmp_path)
    assert run_cli("verify", parcel.image, "--key", keys / "ci.pub").returncode == 0


def test_a_policy_does_not_take_what_was_pulled_or_made_without_one(
    parcel: Parcel, keys: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    policy = policy_of(tmp_path, keys, parcel.image)
    push_cli(run_cli, parcel.directory)
    assert run_cli("pull", parcel.image).returncode == 0
    boot = ("boot", "--policy", policy, "--timeout", "20")
    done = run_cli(*boot, parcel.image)
    assert done.returncode == 125
    assert "is not signed" in done.stderr
    done = run_cli(*boot, parcel.directory)
    assert "is a directory, and what lies in one is not signed" in done.stderr
    refused(
        run_cli, "what lies in one is not signed", "verify", parcel.directory,
        "--key", keys / "ci.pub",
    )  # fmt: skip
    done = run_cli(*boot, "--profile", "micro", parcel.image)
    assert "--policy is for finished bundles" in done.stderr


def test_a_signature_moved_to_another_bundle_is_not_its_own(
    parcel: Parcel, keys: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    """The signature of a good bundle, fetched for a bad one."""
    signed = json.loads(sign(statement(manifest=OTHER), load_signer(keys / "ci.key")))
    rule = Rule((load_key(keys / "ci.pub"),))
    with pytest.raises(VerificationError, match="another bundle's"):
        rule.accept([json.dumps(signed).encode()], DIGEST, "it", NOW)


def test_an_old_bundle_has_expired(
    parcel: Parcel, keys: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    policy = policy_of(tmp_path, keys, parcel.image, max_age_days=30)
    old = write_parcel(tmp_path / "old", parcel.image, parcel.digest, seed=9)
    made = {"SOURCE_DATE_EPOCH": "1600000000"}
    push_cli(run_cli, old.directory, "--sign", keys / "ci.key", env=made)
    refused(run_cli, "was made on 2020-09-13", "pull", parcel.image, "--policy", policy)


def test_a_bundle_of_the_future_is_no_fresh_one(
    parcel: Parcel, keys: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    policy = policy_of(tmp_path, keys, parcel.image, max_age_days=30)
    early = write_parcel(tmp_path / "early", parcel.image, parcel.digest, seed=10)
    made = {"SOURCE_DATE_EPOCH": "4000000000"}
    push_cli(run_cli, early.directory, "--sign", keys / "ci.key", env=made)
    told = "says that it was made on 2096-10-02, which is still to come"
    refused(run_cli, told, "pull", parcel.image, "--policy", policy)
