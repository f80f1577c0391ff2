"""The API as its clients see it: the whole application on a real database, called from any thread of a test."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from anyio.from_thread import BlockingPortal, start_blocking_portal
from fastapi import FastAPI
from sqlalchemy import Engine

from schema.celeryapp import make_redis
from schema.settings import Settings
from taskserver.api.app import create_app
from taskserver.principals import Role, Tokens, bootstrap_admin, create_principal

PREFIX = "/api/v2/tasks"
SECRET_KEY = "a key for tests only"


class ApiClient:
    """Calls the application with one principal's token."""

    def __init__(self, app: FastAPI, portal: BlockingPortal, token: str | None = None) -> None:
        self.app = app
        self._portal = portal
        self._headers = {} if token is None else {"authorization": f"Bearer {token}"}

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Call the path, which is under the prefix unless it begins with //."""
        url = path.removeprefix("/") if path.startswith("//") else PREFIX + path
        given = httpx.Headers(options.get("headers"))
        own = httpx.Headers({name: value for name, value in self._headers.items() if name not in given})
        options["headers"] = [*own.raw, *given.raw]
        return self._portal.call(self._send, method, url, options)

    async def _send(self, method: str, url: str, options: dict[str, Any]) -> httpx.Response:
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://taskserver", timeout=60) as client:
            return await client.request(method, url, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.request("POST", path, **options)

    def data(self, path: str, **options: Any) -> Any:
        """Return the data of a successful GET."""
        response = self.get(path, **options)
        assert response.status_code == 200, response.text
        return response.json()["data"]

    def error(self, path: str, status: int, **options: Any) -> Any:
        """Return the error of a GET that fails with that status."""
        response = self.get(path, **options)
        assert response.status_code == status, response.text
        return response.json()["error"]

    def in_loop(self, act: Callable[[], None]) -> None:
        """Run the function in the application's event loop."""
        self._portal.call(act)

    def bearing(self, token: str | None) -> "ApiClient":
        """Return a client of the same application with another token."""
        return ApiClient(self.app, self._portal, token)

    def acting(self, role: Role, account: str = "0") -> "ApiClient":
        """Return a client of a new principal."""
        engine: Engine = self.app.state.services.engine
        name = f"{role.lower()}.{account}"
        row = create_principal(engine, name=name, role=role, account=account)
        return self.bearing(Tokens(SECRET_KEY).token(row.name, row.serial))


@contextmanager
def running_api(engine: Engine, redis_url: str, **settings: Any) -> Iterator[ApiClient]:
    """Run the application; the client is the first administrator's."""
    url = engine.url.render_as_string(hide_password=False)
    chosen = Settings(_env_file=None, database_url=url, redis_url=redis_url, secret_key=SECRET_KEY, **settings)
    token = bootstrap_admin(engine, chosen)
    redis = make_redis(chosen)
    app = create_app(chosen, engine, redis)
    with start_blocking_portal() as portal:
        try:
            yield ApiClient(app, portal, token)
        finally:
            portal.call(app.state.services.watch.stop)
            redis.close()
