"""What people write for smoke tests, and what it means for an image."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hyperbuild.converter.errors import ContentError, InputError
from hyperbuild.launcher.expectations import (
    Contract,
    Ends,
    Expectation,
    Health,
    Http,
    Log,
    Port,
    Works,
    expected,
    parse_http,
    read_contract,
)
from tests.launcher.support import make_process

CHECKED = {"healthcheck": {"Test": ["CMD", "true"]}}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("/", Http(80, "/")),
        (":8080/health", Http(8080, "/health")),
        (":8080/a=204", Http(8080, "/a", 204)),
        ("/~Welcome to", Http(80, "/", None, "Welcome to")),
        ("/x?a=b&c=1=404~a~b=200", Http(80, "/x?a=b&c=1", 404, "a~b=200")),
        ("/x=2000", Http(80, "/x=2000")),
        ("/%7Euser/", Http(80, "/%7Euser/")),
    ],
)
def test_http_expectations(text: str, wanted: Http) -> None:
    found = parse_http(text, ())
    assert found == wanted
    assert parse_http(str(found).removeprefix("http "), ()) == wanted


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not [:PORT]/PATH"),
        ("index.html", "is not [:PORT]/PATH"),
        (":80", "is not [:PORT]/PATH"),
        ("http://localhost/", "is not [:PORT]/PATH"),
        ("/a b", "is not [:PORT]/PATH"),
        ("/\n", "is not [:PORT]/PATH"),
        (":0/", "ports go from 1 to 65535"),
        (":70000/", "ports go from 1 to 65535"),
        ("/~(", "regular expression '(' is none"),
    ],
)
def test_http_expectations_that_are_none(text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_http(text, ())
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("exposed", "port"),
    [((), 80), (("8080/tcp",), 8080), (("53/udp", "8080"), 8080), (("80/tcp", "443/tcp"), 80)],
)
def test_the_port_of_a_path_is_the_one_exposed(exposed: tuple[str, ...], port: int) -> None:
    process = make_process(exposed_ports=exposed)
    assert expected(Contract(http=("/",)), process) == (Http(port, "/"),)


def test_of_several_exposed_ports_one_must_be_named() -> None:
    process = make_process(exposed_ports=("8080/tcp", "9090-9091/tcp"))
    with pytest.raises(InputError, match="exposes the ports 8080, 9090, 9091; say which"):
        expected(Contract(http=("/",)), process)


@pytest.mark.parametrize(
    ("contract", "image", "wanted"),
    [
        (Contract(), CHECKED, (Health(),)),
        (Contract(), {"exposed_ports": ("80/tcp", "53/udp")}, (Port(80),)),
        (Contract(), {"exposed_ports": ("53/udp",)}, (Works(),)),
        (Contract(), {"exposed_ports": ("80/tcp", "443/tcp")}, (Works((80, 443)),)),
        (Contract(), {"healthcheck": {"Test": ["NONE"]}}, (Works(),)),
        (Contract(port=(6379,)), CHECKED, (Health(), Port(6379))),
        (Contract(log=("up",)), {"exposed_ports": ("80/tcp",)}, (Log("up"),)),
        (Contract(exit=0, log=("up",)), CHECKED, (Log("up"), Ends(0))),
    ],
)
def test_what_a_contract_means_for_an_image(
    contract: Contract, image: dict[str, Any], wanted: tuple[Expectation, ...]
) -> None:
    assert expected(contract, make_process(**image)) == wanted


@pytest.mark.parametrize(
    ("contract", "command", "said"),
    [
        (Contract(exit=0, http=("/",)), "", "can't be asked for http as well"),
        (Contract(exit=0, port=(80,)), "", "can't be asked for port as well"),
        (Contract(exit=0), "true", "can't be asked for a health check as well"),
        (Contract(exit=256), "", "exit status 256: give 0 to 255"),
        (Contract(port=(0,)), "", "ports go from 1 to 65535"),
        (Contract(log=("[",)), "", "regular expression '[' is none"),
        (Contract(timeout=0), "", "timeout of 0 s"),
    ],
)
def test_contracts_that_cannot_be_kept(contract: Contract, command: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        expected(contract, make_process(), health_command=command)
    assert said in str(caught.value)


def test_a_contract_in_a_document() -> None:
    contract = Contract(("/",), (80,), ("up",), None, 30)
    document = {"http": ["/"], "port": [80], "log": ["up"], "timeout": 30}
    assert json.loads(json.dumps(contract.document())) == document
    assert read_contract(document, "x") == contract
    assert read_contract({}, "x") == Contract()


@pytest.mark.parametrize(
    "document",
    [[], {"port": ["80"]}, {"port": [True]}, {"http": "/"}, {"exit": "0"}, {"https": []}],
)
def test_documents_that_hold_no_contract(document: object) -> None:
    with pytest.raises(ContentError):
        read_contract(document, "bundle.json: smoke")
