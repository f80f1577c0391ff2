"""`taskserver flower`: Flower on our broker, behind a login, until a signal ends it.

Runs in this process rather than by Flower's own command: so the login is on no command line, one with a comma in it is taken
as it is, and its metrics are behind the login too. Nothing is kept on disk: what happened is in the server's answers.
"""

import logging
import socket
from typing import Any
from urllib.parse import urlsplit

from flower.app import Flower
from flower.options import options
from flower.urls import settings as flower_settings
from flower.views.monitor import Healthcheck, Metrics
from tornado.httpserver import HTTPServer
from tornado.web import authenticated

from schema.celeryapp import make_celery
from schema.settings import Settings
from taskserver.server import listening
from taskserver.supervision.supervisor import interrupted_by_signals

_INSPECT_MILLISECONDS = 2000.0
_BACKLOG = 128


class PrivateMetrics(Metrics):  # type: ignore[misc]
    """Flower's metrics, which name kinds and workers, for who has the login."""

    @authenticated
    async def get(self) -> None:
        """Answer the metrics."""
        await super().get()


def serve_flower(settings: Settings, *, host: str, port: int) -> None:
    """Run until SIGTERM or SIGINT.

    Args:
        settings: Must name the broker and the login; the path of `flower_url` is the prefix of all addresses.
        host: The address to listen on.
        port: 0 takes any free one.

    Raises:
        AddressInUse: The port is taken.

    """
    logging.getLogger("tornado.access").setLevel(logging.WARNING)
    prefix = urlsplit(settings.flower_url or "").path.strip("/")
    _set_options(basic_auth=[settings.require_flower_auth()], url_prefix=prefix or None)
    with interrupted_by_signals(), listening(host, port) as listener:
        flower = Flower(capp=make_celery(settings), options=options, **_tornado_settings(prefix))
        flower.add_handlers(
            ".*",
            [
                (f"{'/' if prefix else ''}{prefix}/metrics", PrivateMetrics),
                ("/healthcheck", Healthcheck),  # without the prefix too: who asks may not know it
            ],
        )
        _accept(flower, listener)
        try:
            flower.start()
        finally:
            flower.stop()


def _set_options(**given: Any) -> None:
    """Set Flower's options: ours, and nothing from an environment that may be meant for another Flower."""
    for name, value in {
        **given,
        "persistent": False,
        "enable_events": False,  # workers tell of every subtask as it is
        "inspect_timeout": _INSPECT_MILLISECONDS,
    }.items():
        setattr(options, name, value)


def _tornado_settings(prefix: str) -> dict[str, Any]:
    prefixed = {name: f"/{prefix}{flower_settings[name]}" for name in ("login_url", "static_url_prefix")}
    return {**flower_settings, **(prefixed if prefix else {})}


def _accept(flower: Flower, listener: socket.socket) -> None:
    listener.listen(_BACKLOG)
    listener.setblocking(False)
    HTTPServer(flower).add_sockets([listener])
