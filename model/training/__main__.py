"""`python -m wavlm_live.model.training ctc | evaluate | export`: see `commands`."""

import sys

from .commands import main

# The commands live in a module of their own: spawned processes cannot import a `__main__`.
if __name__ == "__main__":
    sys.exit(main())
