"""Two clients of OCP's task API, written after what its published ones send and read.

The first is a tool with a user's name and password; the second signs with an access key, and is told the method that it
signs and the one that it sends.
"""

import base64
import hashlib
import hmac
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import httpx

_INSTANCES = "/api/v2/tasks/instances"


class ObservedTask:
    """A task as a tool sees it that copies each member of the detail to an attribute of its own."""

    def __init__(self, url: str, auth: tuple[str, str], task: int) -> None:
        self.url = url
        self.auth = auth
        self.id = task
        self.name = ""
        self.status = ""
        self.operation = ""
        self.subtasks: list[dict[str, Any]] = []
        self.get()

    def get(self) -> None:
        """Ask for the detail."""
        response = httpx.get(f"{self.url}{_INSTANCES}/{self.id}", auth=self.auth)
        for name, value in response.json()["data"].items():
            setattr(self, name, value)

    def retry(self) -> None:
        """Retry; the answer is not looked at."""
        httpx.post(f"{self.url}{_INSTANCES}/{self.id}/retry", auth=self.auth)

    def wait_done(self, pause: Callable[[], object], permitted: Mapping[str, int]) -> str:
        """Look until the task has ended, and retry it as often as is permitted for its name."""
        retries = permitted.get(self.name, 0)
        while self.status != "SUCCESSFUL":
            if self.status == "FAILED":
                if not retries:
                    break
                retries -= 1
                self.retry()
            pause()
            self.get()
        return self.status


def signature(secret: str, *parts: str) -> str:
    """Return the signature of the parts of a request."""
    return base64.b64encode(hmac.digest(secret.encode(), "\n".join(parts).encode(), "sha1")).decode()


def rfc_1123(moment: datetime) -> str:
    """Return the time as the Date header has it."""
    return moment.astimezone(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")


class SigningClient:
    """Signs each request with an access key."""

    def __init__(self, address: str, access_key: str, secret_key: str, http: httpx.Client | None = None) -> None:
        self.address = address
        self.access_key = access_key
        self.secret_key = secret_key
        self.http = http or httpx.Client()

    def headers(
        self, method: str, target: str, *, body: bytes = b"", content_type: str = "application/json"
    ) -> dict[str, str]:
        """Return the headers of a request."""
        date, digest = rfc_1123(datetime.now(UTC)), hashlib.md5(body).hexdigest().upper() if body else ""
        signed = (method, digest, content_type, date, self.address, "x-ocp-origin:from-test", target)
        return {
            "Authorization": f"OCP-ACCESS-KEY-HMACSHA1 {self.access_key}:{signature(self.secret_key, *signed)}",
            "Date": date,
            "x-ocp-origin": "from-test",
            **({"Content-Type": content_type} if content_type else {}),
        }

    def call(
        self, method: str, path: str, *, sent_as: str | None = None, body: bytes = b"", **query: Any
    ) -> httpx.Response:
        """Sign the method, and send that one or another; lists become texts with commas."""
        target = path + self.query(query)
        return self.http.request(
            sent_as or method,
            f"http://{self.address}{target}",
            content=body or None,
            headers=self.headers(method, target, body=body),
        )

    @staticmethod
    def query(parameters: Mapping[str, Any]) -> str:
        """Return the query, sorted and escaped."""
        texts = {
            name: ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
            for name, value in parameters.items()
        }
        written = "&".join(f"{quote(name, safe='')}={quote(texts[name], safe='')}" for name in sorted(texts))
        return f"?{written}" if written else ""
