"""The built-in kinds; importing this package registers them."""

from workers.handlers import builtin, http_callback

__all__ = ["builtin", "http_callback"]
