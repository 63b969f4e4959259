"""`python -m gateway` is `redash-gateway`; nothing else lives here."""

import sys

from gateway.cli import main

sys.exit(main())
