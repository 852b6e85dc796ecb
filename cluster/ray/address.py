"""Which Ray cluster is meant, and whether it answers: Ray itself waits minutes for one that does not.

This module does not import Ray, so that a run learns within seconds that its cluster is gone.
"""

import os
import re
import socket
from dataclasses import dataclass

from mpcwdwm.errors import UserError

__all__ = ["FOUND_BY_RAY", "HERE", "OPTION", "Address", "check_reachable", "wanted_address"]

HERE = "local"  # start Ray on this machine
FOUND_BY_RAY = "auto"  # the cluster that this machine belongs to
VARIABLE = "RAY_ADDRESS"
OPTION = "--cluster"
ANSWER_SECONDS = 5.0  # for each of connecting and answering; a node far away takes well below one
# Ray speaks gRPC, which is HTTP/2 (RFC 9113): a client begins with these bytes, a frame of settings and, here, a call
# without a message. Whatever it calls, a gRPC server answers with status 200; what is wrong follows in other headers.
CALL = (
    b"\x83\x86\x04\x1c/grpc.health.v1.Health/Check"  # POST, http, the path
    b"\x01\x03ray\x0f\x10\x10application/grpc\x00\x02te\x08trailers"  # authority, content-type, te
)
GREETING = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # length, type SETTINGS, flags, stream
    + bytes([0, 0, len(CALL), 1, 5, 0, 0, 0, 1])  # HEADERS, which end the headers and the stream, stream 1
    + CALL
)
SETTINGS, HEADERS, PADDED, PRIORITY = 4, 1, 8, 32  # types of frames, and flags of HEADERS
OK = 0x88  # of a header block: status 200; before it there may be sizes of the table, 0x20 to 0x3f
MOST_FRAMES = 20  # before the answer come a few, of settings and windows


@dataclass(frozen=True)
class Address:
    """A cluster, and who named it."""

    text: str  # "local", "auto", "host:port" or "ray://host:port"
    named_by: str  # in messages; "" where nobody did

    @property
    def host_and_port(self) -> tuple[str, int] | None:
        """Host and port, None for "local" and "auto"; UserError if the address is neither these nor host:port."""
        if self.text in (HERE, FOUND_BY_RAY):
            return None
        match = re.fullmatch(r"(?:ray://)?(?:\[([0-9a-fA-F:]+)\]|([^:/\s]+)):(\d{1,5})", self.text)
        if match is None or not 0 < int(match[3]) < 2**16:
            raise UserError(
                f"'{self.text}' ({self.named_by}) is no address of a Ray cluster:"
                " give host:port, ray://host:port, auto, or local for this machine"
            )
        return match[1] or match[2], int(match[3])

    def silent(self, reason: str) -> UserError:
        """Return the error to raise where no cluster answers."""
        otherwise = {
            VARIABLE: f"unset {VARIABLE} to compute on this machine",
            OPTION: f"leave out {OPTION} to compute where the YAML says",
            "": "start one with `ray start --head`",
        }.get(self.named_by, "give the address 'local' to compute on this machine")
        return UserError(
            f"no Ray cluster answers at '{self.text}' ({self.named_by}; {reason}):"
            f" start the cluster, correct the address, or {otherwise}"
        )


def wanted_address(given: str | None) -> Address:
    """Return the cluster to use: the one that is given (``resources.address``), else ``$RAY_ADDRESS``, else none.

    "auto" means ``$RAY_ADDRESS`` where that is set, as in Ray.
    """
    from_environment = os.environ.get(VARIABLE)
    if from_environment and given in (None, "", FOUND_BY_RAY):
        return Address(from_environment, VARIABLE)
    return Address(given, "resources.address") if given else Address(HERE, "")


def check_reachable(address: Address) -> None:
    """Raise UserError unless a gRPC server answers at the address, within some seconds.

    "local" and "auto" pass: Ray finds or starts what they mean.
    """
    place = address.host_and_port
    if place is None:
        return
    try:
        with socket.create_connection(place, timeout=ANSWER_SECONDS) as connection:
            if os.environ.get("RAY_USE_TLS", "0") != "0":
                return  # it answers nothing before the handshake, which is Ray's
            connection.settimeout(ANSWER_SECONDS)
            connection.sendall(GREETING)
            is_ray = _answers_as_grpc(connection)
    except TimeoutError:
        raise address.silent(f"no answer in {ANSWER_SECONDS:g} s") from None
    except OSError as error:  # refused, unreachable, unknown host
        raise address.silent(error.strerror or str(error)) from None
    if not is_ray:
        raise address.silent("what listens there is not Ray")


def _answers_as_grpc(connection: socket.socket) -> bool:
    """Return whether the answer to `GREETING` is a gRPC server's: a proxy, too, may speak HTTP/2."""
    with connection.makefile("rb") as stream:
        for number in range(MOST_FRAMES):
            head = stream.read(9)
            if len(head) < 9 or (number == 0 and head[3] != SETTINGS):
                return False
            payload = stream.read(int.from_bytes(head[:3]))
            if head[3] == HEADERS:
                skipped = bool(head[4] & PADDED) + 5 * bool(head[4] & PRIORITY)
                return next((byte == OK for byte in payload[skipped:] if not 0x20 <= byte < 0x40), False)
    return False
