"""How the server itself is."""

from typing import Literal

from taskserver.views.view import View


class Live(View):
    """The process answers."""

    live: Literal[True] = True


class Ready(View):
    """All that the server needs answers."""

    database: Literal["ok"] = "ok"
    broker: Literal["ok"] = "ok"
    migrations: str
