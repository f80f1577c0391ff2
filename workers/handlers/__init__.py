"""The built-in kinds; importing this package registers them."""

from workers.handlers import builtin, callback_element, http_callback

__all__ = ["builtin", "callback_element", "http_callback"]
