"""The worker's settings, and what its handlers find of them in their environment: no secret.

Handlers print environments, put them into results and pass them on to programs that they start. Of what was read here they
keep the rest: a handler may well be told where the server is, and with which token to call it.
"""

import os
from functools import cache

from schema.settings import Settings, secret_variables

_OF_CLIENTS = "TASKSERVER_TOKEN"  # no worker needs it: who gives it to one gives it to the handlers


@cache
def worker_settings() -> Settings:
    """Return the settings, read once; from then on the environment of this process and its children has no secret of ours.

    Raises:
        InvalidArgument: Names each variable that is wrong.

    """
    settings = Settings.load()
    for name in secret_variables(os.environ) - {_OF_CLIENTS}:
        del os.environ[name]
    return settings
