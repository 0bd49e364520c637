"""Bundles go to a real registry and come back the same; what was tampered with never does."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import oras.client
import pytest

from hyperbuild.builder import artifact
from tests.builder.parcels import (
    KERNEL,
    SIZE,
    in_store,
    make_parcel,
    pulled,
    push_cli,
    refused,
    write_parcel,
)
from tests.support.layers import f, layer, layout
from tests.support.registry import (
    PASSWORD,
    USER,
    Answer,
    Proxy,
    Seen,
    certificate,
    push,
    serve_proxy,
    serve_registry,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.builder.parcels import Parcel
    from tests.conftest import KernelOf, RunCli


#: What there is to say of the images themselves.
NOTHING_TO_RUN = "command: the command /bin/true is not in the image"


@pytest.fixture
def proxy(bare_registry: str) -> Iterator[Proxy]:
    with serve_proxy(bare_registry) as running:
        yield running


def through(proxy: Proxy, name: str) -> str:
    return f"{proxy.host}/{name.partition('/')[2]}"


def test_a_bundle_comes_back_as_it_went(parcel: Parcel, run_cli: RunCli, tmp_path: Path) -> None:
    said = push_cli(run_cli, parcel.directory)
    assert said["attachedTo"] == parcel.digest
    pulled(run_cli, parcel.image)
    assert in_store(tmp_path)[parcel.bundle.rootfs.digest] == parcel.rootfs.read_bytes()
    listed = json.loads(run_cli("images", "--json").stdout)
    assert [each["name"] for each in listed] == [parcel.image]
    # A hole is a hole again.
    path = tmp_path / "data/hyperbuild/blobs" / parcel.bundle.rootfs.digest.replace(":", "/")
    assert path.stat().st_blocks * 512 < SIZE // 2
    # By its own digest, too, and what is here is not fetched again.
    pulled(run_cli, said["name"])
    assert not list((tmp_path / "data/hyperbuild/.partial").iterdir())


def test_what_the_registry_has_is_not_sent(
    parcel: Parcel, bare_registry: str, run_cli: RunCli, tmp_path: Path
) -> None:
    first = push_cli(run_cli, parcel.directory)
    assert first["sent"] > len(KERNEL)
    again = push_cli(run_cli, parcel.directory)
    assert again == first | {"sent": 0}
    repository = parcel.image.rpartition(":")[0]
    (tmp_path / "other").mkdir()
    other = make_parcel(tmp_path / "other", f"{repository}:2", seed=2)
    sent = push_cli(run_cli, other.directory)["sent"]
    assert 300_000 < sent < 300_000 + len(KERNEL)


def test_a_tag_of_its_own(parcel: Parcel, bare_registry: str, run_cli: RunCli) -> None:
    said = push_cli(run_cli, parcel.directory, f"{bare_registry}/vm/app:1")
    assert said["attachedTo"] is None
    assert said["name"] == f"{bare_registry}/vm/app:1@{said['digest']}"
    pulled(run_cli, f"{bare_registry}/vm/app:1")
    assert run_cli("verify", f"{bare_registry}/vm/app:1").stdout.strip() == said["digest"]
    # A tag moves to another bundle, but not away from an image.
    push_cli(run_cli, parcel.directory, f"{bare_registry}/vm/app:1")
    refused(run_cli, "is an image or another artifact", "push", parcel.directory, parcel.image)


def test_the_newest_of_several_is_taken(parcel: Parcel, run_cli: RunCli, tmp_path: Path) -> None:
    other = write_parcel(tmp_path / "other", parcel.image, parcel.digest, seed=5)
    push_cli(run_cli, other.directory, env={"SOURCE_DATE_EPOCH": "2000000000"})
    push_cli(run_cli, parcel.directory, env={"SOURCE_DATE_EPOCH": "1900000000"})
    pulled(run_cli, parcel.image)
    assert other.bundle.rootfs.digest in in_store(tmp_path)
    assert parcel.bundle.rootfs.digest not in in_store(tmp_path)


def test_a_bundle_that_is_pushed_again_is_the_newest(
    parcel: Parcel, run_cli: RunCli, tmp_path: Path
) -> None:
    other = write_parcel(tmp_path / "other", parcel.image, parcel.digest, seed=5)
    for each in (parcel, other, parcel):
        push_cli(run_cli, each.directory)
    pulled(run_cli, parcel.image)
    assert parcel.bundle.rootfs.digest in in_store(tmp_path)


def test_others_that_push_at_once_are_attached_too(
    parcel: Parcel, run_cli: RunCli, tmp_path: Path
) -> None:
    several = [
        write_parcel(tmp_path / f"{seed}", parcel.image, parcel.digest, seed=seed)
        for seed in range(4)
    ]
    with ThreadPoolExecutor() as pool:
        said = list(pool.map(lambda each: push_cli(run_cli, each.directory), several))
    raw = raw_manifest(attached_to(parcel.image, parcel.digest))
    listed = {entry["digest"] for entry in json.loads(raw)["manifests"]}
    assert listed == {each["digest"] for each in said}


def attached_to(image: str, digest: str) -> str:
    """Return the name of the index of what is attached to an image of image's repository."""
    return f"{image.rpartition(':')[0]}:{digest.replace(':', '-')}"


def raw_manifest(name: str) -> bytes:
    show = ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{name}"]
    return subprocess.run(show, capture_output=True, check=True).stdout


def test_oras_and_skopeo_read_what_is_pushed(
    parcel: Parcel, bare_registry: str, run_cli: RunCli, tmp_path: Path
) -> None:
    push_cli(run_cli, parcel.directory, f"{bare_registry}/peers/app:1")
    client = oras.client.OrasClient(hostname=bare_registry, insecure=True)
    files = client.pull(target=f"{bare_registry}/peers/app:1", outdir=str(tmp_path / "oras"))
    chunks = sorted(name for name in files if ".zst." in name)
    assert len(chunks) == 4
    packed = b"".join((tmp_path / "oras" / name.rpartition("/")[2]).read_bytes() for name in chunks)
    whole = subprocess.run(["zstd", "-dc"], input=packed, capture_output=True, check=True).stdout
    assert whole == parcel.rootfs.read_bytes()
    assert (tmp_path / "oras/vmlinux").read_bytes() == KERNEL
    # Copied elsewhere by skopeo it is the same bundle.
    copy = ["skopeo", "copy", "--quiet", "--src-tls-verify=false", "--dest-tls-verify=false"]
    names = (f"docker://{bare_registry}/peers/app:1", f"docker://{bare_registry}/peers/copy:1")
    subprocess.run([*copy, *names], check=True)
    pulled(run_cli, f"{bare_registry}/peers/copy:1")


def test_a_bundle_that_skopeo_copied_from_a_store(
    parcel: Parcel, bare_registry: str, run_cli: RunCli, tmp_path: Path
) -> None:
    """In the store the root file system is one plain blob, and is taken as such."""
    push_cli(run_cli, parcel.directory)
    pulled(run_cli, parcel.image)
    store = tmp_path / "data/hyperbuild"
    copy = ["skopeo", "copy", "--quiet", "--dest-tls-verify=false"]
    subprocess.run(
        [*copy, f"oci:{store}:{parcel.image}", f"docker://{bare_registry}/plain/app:1"], check=True
    )
    shutil.rmtree(store)
    pulled(run_cli, f"{bare_registry}/plain/app:1")
    assert run_cli("verify", f"{bare_registry}/plain/app:1").returncode == 0
    assert parcel.bundle.rootfs.digest in in_store(tmp_path)


def test_a_cut_pull_goes_on_where_it_was(
    parcel: Parcel, proxy: Proxy, run_cli: RunCli, tmp_path: Path
) -> None:
    push_cli(run_cli, parcel.directory)
    name = through(proxy, parcel.image)
    blobs = chunk_blobs(run_cli, parcel)

    def cut(seen: Seen, answer: Answer) -> None:
        if blobs[-1] in seen.path:
            answer.status, answer.body, answer.headers = 404, b"", {}

    proxy.fault = cut
    refused(run_cli, "has no blob", "pull", name)
    assert parcel.bundle.rootfs.digest not in in_store(tmp_path)
    assert run_cli("images").stdout.count(parcel.image.partition("/")[2]) == 0
    proxy.fault = lambda seen, answer: None
    proxy.seen.clear()
    pulled(run_cli, name)
    assert in_store(tmp_path)[parcel.bundle.rootfs.digest] == parcel.rootfs.read_bytes()
    assert {each for each in blobs if proxy.asked(each)} == {blobs[-1]}


def chunk_blobs(run_cli: RunCli, parcel: Parcel) -> list[str]:
    """Return the digests of the chunks of the bundle attached to parcel's image."""
    index = json.loads(raw_manifest(attached_to(parcel.image, parcel.digest)))
    digest = index["manifests"][0]["digest"]
    raw = raw_manifest(f"{parcel.image.rpartition(':')[0]}@{digest}")
    layers = json.loads(raw)["layers"]
    return [layer["digest"] for layer in layers if layer["mediaType"].endswith("+zstd")]


def test_a_push_survives_cut_connections(parcel: Parcel, proxy: Proxy, run_cli: RunCli) -> None:
    cut: set[str] = set()

    def fault(seen: Seen, answer: Answer) -> None:
        digest = seen.path.rpartition("digest=")[2]
        if seen.method == "PUT" and "/uploads/" in seen.path and digest not in cut:
            cut.add(digest)
            answer.reset = True

    proxy.fault = fault
    push_cli(run_cli, parcel.directory, f"{proxy.host}/cut/app:1")
    assert len(cut) > 4
    pulled(run_cli, f"{proxy.host}/cut/app:1")


@pytest.mark.parametrize("where", ["chunk", "kernel", "document"])
def test_tampered_bytes_never_land(
    parcel: Parcel, proxy: Proxy, run_cli: RunCli, tmp_path: Path, where: str
) -> None:
    push_cli(run_cli, parcel.directory)
    assert parcel.bundle.kernel
    document = artifact.oci.digest_of(parcel.bundle.to_json())
    wrong = {
        "chunk": chunk_blobs(run_cli, parcel)[2],
        "kernel": parcel.bundle.kernel.digest,
        "document": document,
    }[where]

    def flip(seen: Seen, answer: Answer) -> None:
        if wrong in seen.path and seen.method == "GET":
            answer.body = answer.body[:-1] + bytes([answer.body[-1] ^ 1])

    proxy.fault = flip
    name = through(proxy, parcel.image)
    refused(run_cli, "digest", "pull", name)
    assert parcel.image not in run_cli("images").stdout
    in_store(tmp_path)
    refused(run_cli, "", "verify", name)
    proxy.fault = lambda seen, answer: None
    pulled(run_cli, name)
    in_store(tmp_path)


def test_a_chunk_that_was_wrong_once_is_fetched_again(
    parcel: Parcel, proxy: Proxy, run_cli: RunCli
) -> None:
    """A bit of the random bytes in it, which zstd takes for as good: the whole's digest tells."""
    push_cli(run_cli, parcel.directory)
    wanted = chunk_blobs(run_cli, parcel)[2]
    asked: list[str] = []

    def flip_once(seen: Seen, answer: Answer) -> None:
        if wanted in seen.path and seen.method == "GET":
            asked.append(seen.path)
            if len(asked) == 1:
                at = len(answer.body) // 2
                flipped = bytes([answer.body[at] ^ 1])
                answer.body = answer.body[:at] + flipped + answer.body[at + 1 :]

    proxy.fault = flip_once
    name = through(proxy, parcel.image)
    pulled(run_cli, name)
    assert len(asked) == 2
    assert run_cli("verify", name).returncode == 0


def test_chunks_that_make_another_root_are_refused(
    parcel: Parcel, bare_registry: str, run_cli: RunCli, tmp_path: Path
) -> None:
    """Each blob is what its manifest says, and the whole is not what bundle.json says."""
    liar = write_parcel(tmp_path / "liar", parcel.image, parcel.digest, seed=7)
    honest = parcel.bundle.rootfs.digest
    lie = liar.bundle.replace(rootfs=liar.bundle.rootfs.replace(digest=honest))
    push_cli(run_cli, liar.directory, f"{bare_registry}/lie/app:1")
    repository = f"{bare_registry}/lie/app"
    client = oras.client.OrasClient(hostname=bare_registry, insecure=True)
    manifest = client.get_manifest(f"{repository}:1")
    container = client.get_container(f"{repository}:2")
    document = tmp_path / "lie.json"
    document.write_bytes(lie.to_json())
    config = {
        "mediaType": manifest["config"]["mediaType"],
        "digest": artifact.oci.digest_of(lie.to_json()),
        "size": len(lie.to_json()),
    }
    client.upload_blob(str(document), container, config)
    client.upload_manifest(manifest | {"config": config}, container)
    refused(run_cli, "where its bundle says", "pull", f"{repository}:2")
    refused(run_cli, "is named; push the bundle again", "verify", f"{repository}:2")
    assert honest not in in_store(tmp_path)


def test_a_damaged_bundle_is_not_pushed(parcel: Parcel, run_cli: RunCli) -> None:
    with parcel.rootfs.open("r+b") as file:
        file.write(b"\1\2\3")
    refused(run_cli, "where its bundle says", "push", parcel.directory)
    refused(run_cli, "no bundle is attached", "pull", parcel.image)
    refused(run_cli, "where bundle.json says", "verify", parcel.directory)


def test_what_is_no_bundle(
    parcel: Parcel, bare_registry: str, run_cli: RunCli, tmp_path: Path
) -> None:
    refused(run_cli, "no bundle is attached to", "pull", parcel.image)
    refused(run_cli, "does not exist", "pull", f"{bare_registry}/no/such:1")
    refused(run_cli, "is in no registry", "pull", "oci:somewhere")
    (tmp_path / "note").write_text("hello")
    client = oras.client.OrasClient(hostname=bare_registry, insecure=True)
    client.push(
        files=[str(tmp_path / "note")], target=f"{bare_registry}/foreign/note:1",
        disable_path_validation=True,
    )  # fmt: skip
    refused(run_cli, "is not a container image", "pull", f"{bare_registry}/foreign/note:1")
    refused(run_cli, "is not a container image", "convert", f"{bare_registry}/foreign/note:1")


def test_a_bundle_is_no_image(parcel: Parcel, bare_registry: str, run_cli: RunCli) -> None:
    name = f"{bare_registry}/{parcel.image.split('/')[1]}/bundle:1"
    push_cli(run_cli, parcel.directory, name)
    for command in ("convert", "inspect"):
        refused(
            run_cli, f"{name} is a finished bundle, no image; boot it as it is, or hyperbuild pull",
            command, name,
        )  # fmt: skip


@pytest.mark.parametrize("command", ["boot", "convert", "inspect"])
def test_what_lies_here_is_hinted_at(
    command: str, bare_registry: str, run_cli: RunCli, tmp_path: Path
) -> None:
    host = tmp_path / bare_registry
    (host / "plain").mkdir(parents=True)
    (host / "My").mkdir()
    layout(host / "image", layer(f("x")))
    (host / "app.tar").write_bytes(layer(f("x")))
    here = {
        "plain": "or is it the directory {} here? Then say ./{}",
        "image": "or is it the directory {} here? Then say oci:{}",
        "My": "or is it the directory {} here? Then say ./{}",
        "app.tar": "or is it the file {} here? Then say oci-archive:{}, or docker-archive:{}",
    }
    for place, said in here.items():
        name = f"{bare_registry}/{place}"
        done = run_cli(command, name, cwd=tmp_path)
        assert done.returncode == (125 if command == "boot" else 1)
        (line,) = done.stderr.splitlines()
        assert line.startswith("Error: ")
        assert line.endswith(said.replace("{}", name))


def test_what_cannot_be_reached_is_said_once(run_cli: RunCli) -> None:
    done = run_cli("boot", "127.0.0.1:1/app")
    assert done.returncode == 125
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: 127.0.0.1:1: connection refused")


def test_where_to_push_must_be_clear(
    parcel: Parcel, bare_registry: str, run_cli: RunCli, tmp_path: Path
) -> None:
    refused(run_cli, "no bundle docker.io/library/nowhere:1", "push", "nowhere:1")
    local = write_parcel(tmp_path / "local", "oci:/images/app", parcel.digest)
    refused(run_cli, "is in no registry to push to; say where", "push", local.directory)
    gone = write_parcel(tmp_path / "gone", parcel.image, "sha256:" + "0" * 64)
    refused(run_cli, "does not have the image", "push", gone.directory)
    digest = f"{bare_registry}/app@{parcel.digest}"
    refused(run_cli, "give a tag alone", "push", parcel.directory, digest)


def test_an_image_by_digest_has_no_bundle_for_boot(
    parcel: Parcel, run_cli: RunCli, tmp_path: Path
) -> None:
    """Whoever pins an image's bytes does not get what others have attached to it."""
    push_cli(run_cli, parcel.directory)
    name = f"{parcel.image.rpartition(':')[0]}@{parcel.digest}"
    done = run_cli("boot", name, "--timeout", "20")
    # The image was converted, and that is what there is to say of it.
    assert NOTHING_TO_RUN in done.stderr
    done = run_cli("boot", parcel.image, "--timeout", "20")
    assert NOTHING_TO_RUN not in done.stderr
    assert parcel.bundle.rootfs.digest in in_store(tmp_path)


def test_a_bundle_of_another_image_is_not_its_own(
    parcel: Parcel, run_cli: RunCli, tmp_path: Path
) -> None:
    push_cli(run_cli, parcel.directory)
    (tmp_path / "b").mkdir()
    other = make_parcel(tmp_path / "b", f"{parcel.image.rpartition(':')[0]}:2", seed=3)
    index = raw_manifest(attached_to(parcel.image, parcel.digest))
    host, _, name = attached_to(other.image, other.digest).partition("/")
    url = f"http://{host}/v2/{name.replace(':', '/manifests/')}"
    headers = {"Content-Type": artifact.oci.OCI_INDEX}
    urllib.request.urlopen(urllib.request.Request(url, index, headers, method="PUT")).close()
    refused(run_cli, "was made from another image", "pull", other.image)
    # A boot says so, and converts.
    done = run_cli("boot", other.image, "--timeout", "20")
    assert "was made from another image" in done.stderr
    assert "the image is converted instead" in done.stderr
    assert NOTHING_TO_RUN in done.stderr


def test_a_registry_with_the_referrers_api(parcel: Parcel, proxy: Proxy, run_cli: RunCli) -> None:
    """The API's answers are the proxy's: no registry of Debian 12 has it."""
    push_cli(run_cli, parcel.directory)
    pages = {"": [], "2": []}
    tag = parcel.digest.replace(":", "-")

    def api(seen: Seen, answer: Answer) -> None:
        if "/referrers/" in seen.path:
            page = seen.path.rpartition("page=")[2] if "page=" in seen.path else ""
            answer.status = 200
            answer.body = json.dumps(
                {"schemaVersion": 2, "mediaType": artifact.oci.OCI_INDEX, "manifests": pages[page]}
            ).encode()
            link = f'<{seen.path}&page=2>; rel="next"' if not page else ""
            answer.headers = {"Content-Type": artifact.oci.OCI_INDEX, "Link": link}
        elif tag in seen.path and seen.method == "GET":
            pages["2"] = json.loads(answer.body)["manifests"]

    proxy.fault = api
    name = through(proxy, parcel.image)
    refused(run_cli, "no bundle is attached", "pull", name)
    raw_manifest(attached_to(name, parcel.digest))
    assert pages["2"]
    proxy.seen.clear()
    pulled(run_cli, name)
    assert not proxy.asked(tag)


@pytest.mark.parametrize("status", [401, 403, 405])
def test_a_registry_that_lists_nothing_attached_gives_the_image(
    parcel: Parcel, proxy: Proxy, run_cli: RunCli, status: int
) -> None:
    push_cli(run_cli, parcel.directory)
    tag = parcel.digest.replace(":", "-")

    def refuse(seen: Seen, answer: Answer) -> None:
        if "/referrers/" in seen.path or tag in seen.path:
            answer.status, answer.body, answer.headers = status, b"{}", {}

    proxy.fault = refuse
    done = run_cli("boot", through(proxy, parcel.image), "--timeout", "20")
    assert NOTHING_TO_RUN in done.stderr
    assert "no bundle could be looked for" in done.stderr
    refused(run_cli, f"status {status}", "pull", through(proxy, parcel.image))


def test_credentials_and_a_private_ca(
    tmp_path: Path, run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = certificate(tmp_path)
    with serve_registry(tmp_path / "locked", auth=True, tls=tls) as host:
        parcel = write_parcel(tmp_path / "bundle", f"{host}/app:1", "sha256:" + "0" * 64)
        config = tmp_path / "config/hyperbuild"
        config.mkdir(parents=True)
        name = f"{host}/vm/app:1"
        refused(run_cli, "certificate is not trusted", "push", parcel.directory, name)
        (config / "registries.toml").write_text(f'["{host}"]\nca = "{tls.ca}"\n')
        refused(run_cli, "log in: skopeo login", "push", parcel.directory, name)
        auth = tmp_path / "auth.json"
        login = ["skopeo", "login", f"--authfile={auth}", f"--username={USER}"]
        subprocess.run(
            [*login, f"--password={PASSWORD}", "--tls-verify=false", host],
            check=True,
            capture_output=True,
        )
        push_cli(run_cli, parcel.directory, name, "--authfile", auth)
        refused(run_cli, "log in: skopeo login", "pull", name)
        assert run_cli("pull", name, "--authfile", auth).returncode == 0


def test_two_pulls_at_once_fetch_once(parcel: Parcel, proxy: Proxy, run_cli: RunCli) -> None:
    push_cli(run_cli, parcel.directory)
    blobs = chunk_blobs(run_cli, parcel)
    name = through(proxy, parcel.image)
    with ThreadPoolExecutor() as pool:
        digests = set(pool.map(lambda _: pulled(run_cli, name), range(2)))
    assert len(digests) == 1
    assert [len(proxy.asked(blob)) for blob in blobs] == [1] * len(blobs)


@pytest.mark.boot
def test_a_bundle_boots_on_a_machine_that_has_nothing(
    bare_registry: str, run_cli: RunCli, tmp_path: Path, kernel_of: KernelOf
) -> None:
    """Neither the image's layers nor a kernel of its own are asked for."""
    kernel_of("micro")
    source = tmp_path / "image"
    busybox = f("bin/busybox", Path("/bin/busybox").read_bytes(), mode=0o755)
    layout(source, layer(busybox), config={"Cmd": ["/bin/busybox", "echo", "here I am"]})
    name = f"{bare_registry}/boot/app:1"
    push(source, name)
    assert run_cli("convert", name, "--profile", "micro").returncode == 0
    said = push_cli(run_cli, name)
    with serve_proxy(bare_registry) as proxy:
        for wanted in (through(proxy, name), through(proxy, said["name"])):
            shutil.rmtree(tmp_path / "data")
            proxy.seen.clear()
            done = run_cli("boot", wanted)
            assert (done.returncode, done.stdout) == (0, "here I am\n"), done.stderr
            manifest = json.loads((source / "index.json").read_text())["manifests"][0]["digest"]
            layers = json.loads((source / "blobs" / manifest.replace(":", "/")).read_text())
            assert not proxy.asked(layers["layers"][0]["digest"])
