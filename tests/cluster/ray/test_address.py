"""A Ray cluster that does not answer is one line within seconds, with the address and who named it."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from cluster.ray import address as addresses
from cluster.ray.address import Address, check_reachable, wanted_address
from mpcwdwm.errors import UserError

SETTINGS_FRAME = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # what every HTTP/2 server sends first


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_USE_TLS", raising=False)


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def place_of(server: socket.socket) -> str:
    return f"127.0.0.1:{server.getsockname()[1]}"


def answering(server: socket.socket, answer: bytes) -> None:
    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()


def free_place() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return place_of(server)


def test_what_is_given_comes_before_the_environment_and_auto_means_the_environment(monkeypatch: pytest.MonkeyPatch):
    assert wanted_address(None).text == "local"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert wanted_address(None) == Address("10.0.0.1:6379", "RAY_ADDRESS")
    assert wanted_address("auto") == Address("10.0.0.1:6379", "RAY_ADDRESS")
    assert wanted_address("local").text == "local"
    assert wanted_address("10.0.0.2:6379") == Address("10.0.0.2:6379", "resources.address")


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_nobody_listens(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place = scheme + free_place()
    with pytest.raises(UserError, match=f"{place}' \\(resources.address; Connection refused.*'local'"):
        check_reachable(wanted_address(place))
    monkeypatch.setenv("RAY_ADDRESS", place)
    with pytest.raises(UserError, match=f"{place}' \\(RAY_ADDRESS; Connection refused.*unset RAY_ADDRESS"):
        check_reachable(wanted_address(None))


def test_what_never_answers_is_not_waited_for(listening: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "ANSWER_SECONDS", 0.2)
    began = time.monotonic()
    with pytest.raises(UserError, match=r"no answer in 0\.2 s"):
        check_reachable(wanted_address(place_of(listening)))
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.7\r\n", b""])
def test_another_service_is_not_taken_for_ray(listening: socket.socket, answer: bytes) -> None:
    answering(listening, answer)
    with pytest.raises(UserError, match="what listens there is not Ray"):
        check_reachable(wanted_address(place_of(listening)))


def headers(block: bytes, flags: int = 4) -> bytes:
    """A frame that answers the call."""
    return bytes([0, 0, len(block), 1, flags, 0, 0, 0, 1]) + block


STATUS_200, STATUS_404, WINDOW = b"\x88", b"\x8d", bytes([0, 0, 4, 8, 0, 0, 0, 0, 0]) + bytes(4)  # RFC 7541, A


@pytest.mark.parametrize(
    "answer",
    [
        headers(STATUS_200 + b"..."),
        WINDOW + headers(b"\x20\x3f\x88"),
        headers(b"\x02" + STATUS_200 + bytes(2), flags=4 | 8),
        headers(bytes(5) + STATUS_200, flags=4 | 32),
    ],
    ids=["at once", "after other frames", "padded", "with a priority"],
)
def test_a_grpc_server_passes(listening: socket.socket, answer: bytes) -> None:
    answering(listening, SETTINGS_FRAME + answer)
    check_reachable(wanted_address(place_of(listening)))


@pytest.mark.parametrize("answer", [headers(STATUS_404), headers(b""), b"", WINDOW, WINDOW * 30])
def test_a_proxy_that_speaks_http2_is_not_taken_for_ray(listening: socket.socket, answer: bytes) -> None:
    answering(listening, SETTINGS_FRAME + answer)
    with pytest.raises(UserError, match="what listens there is not Ray"):
        check_reachable(wanted_address(place_of(listening)))


@pytest.mark.parametrize("text", ["local", "auto"])
def test_what_ray_finds_itself_passes(text: str) -> None:
    check_reachable(Address(text, "resources.address"))


@pytest.mark.parametrize("text", ["head", "head:", "head:70000", "http://head:1", "head:1/x", "a b:1"])
def test_what_is_no_address_is_said(text: str) -> None:
    with pytest.raises(UserError, match="is no address of a Ray cluster"):
        check_reachable(wanted_address(text))


@pytest.mark.parametrize(("found", "reason"), [("127.0.0.1:1", "Connection refused"), (None, "none runs on this")])
@pytest.mark.parametrize("variable", ["auto", None])
def test_auto_with_no_cluster_or_one_that_is_gone_is_said_at_once(
    found: str | None, reason: str, variable: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray._private import services

    from cluster.ray.start import start

    def find(address: str) -> str:
        if found is None:
            raise ConnectionError("Could not find any running Ray instance")
        return found

    monkeypatch.setattr(services, "canonicalize_bootstrap_address_or_die", find)
    if variable:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    began = time.monotonic()
    with pytest.raises(UserError, match=f"no Ray cluster answers at .*{reason}"):
        start(None if variable else "auto")
    assert time.monotonic() - began < 10
