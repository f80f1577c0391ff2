"""Flower as a part of `taskserver dev`: where it listens, how it is started, and when it may be relied on."""

import os
import sys
from base64 import b64encode
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from schema.settings import Settings
from taskserver.answering import answer_of
from taskserver.principals import ADMIN_NAME
from taskserver.server import AddressInUse, listening
from taskserver.supervision.part import Backoff, Part

FLOWER = "flower"
_USUAL_PORT = 5555
_IPV4 = 4


def choose_port(host: str, given: int | None, *, but: int) -> int:
    """Return the port that Flower is to listen on: chosen before it starts, because the server must know it and it must stay.

    Args:
        host: The address to listen on.
        given: 0 takes any free one; None the usual one, or any free one where that is taken.
        but: The server's port.

    Raises:
        AddressInUse: The given port is taken.

    """
    wanted = _USUAL_PORT if given is None else given
    if wanted != but or not but:
        try:
            return _free_port(host, wanted)
        except AddressInUse:
            pass  # said below
    if given is not None:
        raise AddressInUse(
            f"Flower cannot listen on {host}:{wanted}: choose another --flower-port, or --no-flower",
            target=f"{host}:{wanted}",
        )
    return _free_port(host, 0)


def _free_port(host: str, wanted: int) -> int:
    with listening(host, wanted) as bound:
        return int(bound.getsockname()[1])


def address_of(host: str, port: int) -> str:
    """Return where a browser on this machine finds who listens there: an address that stands for all is none to go to."""
    try:
        address = ip_address(host)
    except ValueError:
        return f"http://{host}:{port}"
    if address.is_unspecified:
        address = ip_address("127.0.0.1" if address.version == _IPV4 else "::1")
    return f"http://{address}:{port}" if address.version == _IPV4 else f"http://[{address}]:{port}"


def flower_part(settings: Settings, token: str, *, host: str, port: int, log_file: Path, backoff: Backoff) -> Part:
    """Return the part; its login is the administrator's.

    Of our settings it gets only what it needs: its login is for fewer things than the server's secrets.
    """
    url = settings.flower_url or ""
    login = f"{ADMIN_NAME}:{token}"
    known = {
        "TASKSERVER_REDIS_URL": settings.require_redis(),
        "TASKSERVER_FLOWER_URL": url,
        "TASKSERVER_FLOWER_AUTH": login,
    }

    def hears_of_a_worker() -> bool:  # then it hears of every subtask, too
        path = f"{urlsplit(url).path}/api/workers?status=true"
        credential = b64encode(login.encode()).decode()
        return b"true" in answer_of(host, port, path, Authorization=f"Basic {credential}")

    return Part(
        name=FLOWER,
        argv=(sys.executable, "-P", "-m", "taskserver", "flower", "--host", host, "--port", str(port)),
        log_file=log_file,
        env={name: value for name, value in os.environ.items() if not name.startswith("TASKSERVER_")} | known,
        is_ready=hears_of_a_worker,
        ready_seconds=60.0,
        backoff=backoff,
    )
