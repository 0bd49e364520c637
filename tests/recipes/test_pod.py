"""Pod files: what may be said, in TOML and as a Kubernetes Pod, and what is refused where."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperbuild.converter.errors import HyperbuildError, InputError, printable
from hyperbuild.recipes.pod import PodFile, check_pod, read_pod

TOML = """
name = "shop"
memory = "384M"
ports = ["8080:80"]
restart = "on-failure:3"
[[container]]
name = "web"
image = "nginx:1.24"
env = { EMPTY = "" }
volumes = ["./site:/www:ro", "data:/data"]
shared = { run = "/run/shop" }
after = { db = "healthy" }
restart = "always"
[[container]]
name = "db"
image = "redis:7"
cmd = ["redis-server", "--save", ""]
health-cmd = "redis-cli ping"
"""

POD = """
apiVersion: v1
kind: Pod
metadata:
  name: shop
  labels: {app: shop}
spec:
  restartPolicy: OnFailure
  terminationGracePeriodSeconds: 3
  hostAliases:
  - {ip: 10.0.0.1, hostnames: [db.lan, cache.lan]}
  securityContext: {runAsUser: 101, runAsGroup: 102}
  volumes:
  - name: site
    hostPath: {path: /srv/site, type: Directory}
  - name: run
    emptyDir: {}
  - name: data
    persistentVolumeClaim: {claimName: shop-data}
  initContainers:
  - {name: first, image: busybox, command: [sh, -c, "true"]}
  - {name: second, image: busybox, args: ["true"]}
  containers:
  - name: web
    image: nginx:1.24
    ports:
    - {containerPort: 80, hostPort: 8080}
    - {containerPort: 53, hostPort: 5353, protocol: UDP, hostIP: 127.0.0.1}
    - {containerPort: 9000, name: metrics}
    env: [{name: MODE, value: fast}, {name: EMPTY}, {name: BOTH, value: "$(MODE)-$$(MODE)-$(NO)"}]
    args: ["--mode=$(MODE)"]
    workingDir: /srv
    volumeMounts:
    - {name: site, mountPath: /www, readOnly: true}
    - {name: run, mountPath: /run/shop}
    securityContext: {readOnlyRootFilesystem: true, runAsUser: 0}
    resources: {limits: {memory: 200Mi, cpu: 500m}}
  - name: db
    image: redis:7
    volumeMounts: [{name: data, mountPath: /data}, {name: run, mountPath: /run/shop}]
    readinessProbe: {exec: {command: [redis-cli, "ping me"]}, periodSeconds: 5}
    resources: {requests: {memory: 1Gi}}
"""


def read(tmp_path: Path, text: str, name: str) -> PodFile:
    path = tmp_path / name
    path.write_text(text)
    return read_pod(path)


def test_a_pod_in_toml(tmp_path: Path) -> None:
    pod = read(tmp_path, TOML, "other.toml")
    assert (pod.name, pod.directory, pod.pod["memory"]) == ("shop", tmp_path, "384M")
    assert [container["name"] for container in pod.containers] == ["web", "db"]
    assert pod.containers[0]["env"] == {"EMPTY": ""}


def test_without_a_name_it_is_the_files(tmp_path: Path) -> None:
    text = TOML.replace('name = "shop"\n', "", 1)
    assert read(tmp_path, text, "My-Shop.toml").name == "My-Shop"
    assert read(tmp_path, text, "my shop.toml").name == ""


def test_a_kubernetes_pod(tmp_path: Path) -> None:
    pod = read(tmp_path, POD, "shop.yaml")
    assert pod.pod == {
        "name": "shop",
        "hostname": "shop",
        "add-host": ["db.lan:10.0.0.1", "cache.lan:10.0.0.1"],
        "ports": ["8080:80/tcp", "127.0.0.1:5353:53/udp"],
        "stop-timeout": 3,
        "memory": "1224M",
        "restart": "on-failure",
    }
    web, db, first, second = pod.containers
    assert first == {
        "name": "first", "image": "busybox", "entrypoint": ["sh", "-c", "true"],
        "user": "101:102", "restart": "on-failure",
    }  # fmt: skip
    assert second["after"] == {"first": "completed"}
    assert web == {
        "name": "web", "image": "nginx:1.24", "cmd": ["--mode=fast"],
        "env": {"MODE": "fast", "EMPTY": "", "BOTH": "fast-$(MODE)-$(NO)"},
        "workdir": "/srv", "user": "0", "read-only": True, "volumes": ["/srv/site:/www:ro"],
        "shared": {"run": "/run/shop"}, "after": {"second": "completed"},
    }  # fmt: skip
    assert db["healthcheck"] == {
        "test": ["CMD", "redis-cli", "ping me"], "interval": "5s", "timeout": "1s",
        "start-period": "0s", "retries": 3,
    }  # fmt: skip
    assert (db["volumes"], db["user"]) == (["shop-data:/data"], "101:102")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("memory =", "memroy ="), "memroy is not known; did you mean memory?"),
        (("[[container]]", "[[containers]]"), "containers is not known; did you mean container?"),
        (('name = "web"', 'nmae = "web"'), "container 1: nmae is not known; did you mean name?"),
        (('image = "redis:7"', ""), "container db: image is missing; it is for: The image"),
        (('"healthy"', '"well"'), "container web: after has a value of db that is not one of"),
        (('name = "web"', 'name = "Web"'), "container Web: name does not look like"),
        (('run = "/run', '"a b" = "/run'), "shared has a name a b that is none"),
        (('"always"', '"sometimes"'), "container web: restart does not look like"),
        (("name", "= name"), "is not TOML"),
    ],
)
def test_what_is_wrong_in_toml(tmp_path: Path, change: tuple[str, str], told: str) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, TOML.replace(*change), "shop.toml")
    assert str(caught.value).startswith(f"{tmp_path}/shop.toml")
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (('name = "db"', 'name = "web"'), "two containers are called web; give each its own name"),
        (("{ db =", "{ cache ="), "web is to start after cache, which is no other container of"),
        (("{ db =", "{ web ="), "web is to start after web, which is no other container of the"),
        (('cmd = ["redis', 'after = { web = "started" }\ncmd = ["redis'), "web, db wait for each"),
    ],
)
def test_containers_that_can_never_all_start(
    tmp_path: Path, change: tuple[str, str], told: str
) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, TOML.replace(*change), "shop.toml")
    assert told in str(caught.value)


def test_there_are_no_more_than_16(tmp_path: Path) -> None:
    text = "".join(f'[[container]]\nname = "c{n}"\nimage = "i"\n' for n in range(17))
    with pytest.raises(InputError, match="17 containers: a pod has 1 to 16"):
        read(tmp_path, text, "many.toml")


def test_a_pod_has_a_container(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no container; begin one with"):
        read(tmp_path, 'name = "empty"\n', "empty.toml")
    with pytest.raises(InputError, match="there is no container; begin one with"):
        read(tmp_path, 'container = "web"\n', "empty.toml")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("kind: Pod", "kind: Deployment"), "it is no Pod; say apiVersion: v1 and kind: Pod"),
        (("  restartPolicy: OnF", "  restartPolicy: onF"), "spec.restartPolicy is not one of"),
        (("workingDir", "workDir"), "containers[0].workDir is not known here; did you mean"),
        (("emptyDir: {}", "nfs: {server: a}"), "spec.volumes[1].nfs is not supported; take it out"),
        (("name: MODE, value: fast", "name: A, valueFrom: {}"), "env[0].valueFrom is not supp"),
        (("value: fast", "value: 1"), "containers[0].env[0].value is no string; put it into"),
        (("hostPort: 8080", "hostPort: web"), "ports[0].hostPort is no whole number"),
        (("{readOnlyRootFilesystem: true,", '{readOnlyRootFilesystem: "true",'), "is not true or"),
        (("runAsUser: 0}", "runAsUser: 0, runAsNonRoot: true}"), "runAsNonRoot needs a runAsUser"),
        (("image: nginx:1.24", "image: nginx\n    image: other"), "image is said twice"),
        (("    env: [", "    imagePullPolicy: Always\n    env: ["), "imagePullPolicy is not supp"),
        (("cpu: 500m", "cpu: banana"), "limits.cpu is no amount of CPU"),
        (("emptyDir: {}", "emptyDir: {sizeLimit: 10Mi}"), "emptyDir.sizeLimit is not supported"),
        (
            ("/run/shop}\n    securityC", "/a}\n    - {name: run, mountPath: /b}\n    securityC"),
            "for the se",
        ),
        (("/run/shop}\n    securityC", "/a, readOnly: true}\n    securityC"), "of an emptyDir"),
        (("claimName: shop-data", "claimName: /etc"), "claimName is no name of a volume"),
        (("mountPath: /www", 'mountPath: "/www:ro"'), "mountPath has a ':' in it"),
        (("type: Directory", "type: Socket"), "hostPath.type is not supported"),
        (("name: EMPTY", 'name: "A=B"'), "env[1].name is no name of a variable"),
        (("    env: [", "    livenessProbe: {}\n    env: ["), "livenessProbe is not supported"),
        (("{name: site, mountPath", "{name: sight, mountPath"), "is no volume; there are: site"),
        (("path: /srv/site", "path: srv"), "hostPath.path is no absolute path without"),
        (("200Mi", "lots"), "limits.memory is no amount of memory"),
        (("exec: {command", "httpGet: {path"), "readinessProbe.httpGet is not supported"),
        (("  containers:", "  containers: []\n  spare:"), "spec.spare is not known here"),
        (("runAsUser: 101, ", ""), "securityContext.runAsGroup needs runAsUser"),
        (("name: web", "name: Web"), "container Web: name does not look like"),
        (("apiVersion", "{"), "is not YAML"),
        (("apiVersion: v1", "---\na: b\n---\napiVersion: v1"), "has 2 documents; a pod file is"),
    ],
)
def test_what_is_wrong_in_yaml(tmp_path: Path, change: tuple[str, str], told: str) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, POD.replace(*change), "shop.yaml")
    assert str(caught.value).startswith(f"{tmp_path}/shop.yaml")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
PLACES = st.lists(st.integers(0, 5), min_size=1, max_size=6)


@settings(max_examples=50)
@given(PLACES, VALUES)
def test_any_change_is_read_or_refused(place: list[int], value: object) -> None:
    document = yaml.safe_load(POD)
    at = document
    for step in place[:-1]:
        inner = list(at.values()) if isinstance(at, dict) else at
        following = inner[step % len(inner)]
        if not isinstance(following, dict | list) or not following:
            break
        at = following
    keys = list(at) if isinstance(at, dict) else range(len(at))
    at[keys[place[-1] % len(at)]] = value
    with TemporaryDirectory() as directory:
        path = Path(directory) / "any.yaml"
        path.write_text(yaml.safe_dump(document))
        try:
            read_pod(path)
        except HyperbuildError as error:
            assert printable(str(error)) == str(error)


@given(VALUES)
def test_any_document_is_checked(value: object) -> None:
    document = value if isinstance(value, dict) else {"container": value}
    try:
        check_pod(Path("any.toml"), document)
    except HyperbuildError as error:
        assert printable(str(error)) == str(error)
