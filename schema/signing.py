"""The key that callbacks are signed with: who sends them needs it, and needs the installation's secret key no longer."""

import hashlib
import hmac


def signing_key(secret_key: str) -> bytes:
    """Return the key that receivers check signatures with.

    Derived, so that who knows it can neither make tokens nor learn the secret key.
    """
    return hmac.digest(secret_key.encode(), b"taskserver callback signature", hashlib.sha256).hex().encode()
