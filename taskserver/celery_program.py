"""Celery's command line with the current directory last on the import path: `python -P -m taskserver.celery_program`.

Celery by itself puts it first, and with it whatever lies there and is called `workers`, `schema` or `celery`. The worker puts
it first while it imports the modules of handlers.
"""

import sys
from pathlib import Path

from celery.__main__ import main

if __name__ == "__main__":
    sys.path.append(str(Path.cwd()))
    main()
