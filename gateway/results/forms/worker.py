"""The process in which one large form is made: the job comes on stdin, the JSON in a file that is open, by the
descriptor in argv. The form leaves on stdout; an error on stderr, with the name of its class.
"""

from __future__ import annotations

import os
import sys
from importlib.abc import MetaPathFinder

import msgspec

from gateway.errors import BadRequest, GatewayError, NotAcceptable, UpstreamUnusable
from gateway.results.forms.job import Job, reader_of

ERRORS = {error.__name__: error for error in (BadRequest, NotAcceptable, UpstreamUnusable)}
"""What can be wrong with a job; everything else is a fault of ours."""

REFUSED = 3
"""The exit status after such an error."""


class _WithoutPandas(MetaPathFinder):
    """Hides pandas, which pyarrow imports where it is installed, for nothing that is needed here: 60 MB."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        """See the base class."""
        if fullname == "pandas":
            raise ModuleNotFoundError(fullname)


def main() -> int:
    """Make the form; return the exit status."""
    sys.meta_path.insert(0, _WithoutPandas())
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    try:
        for piece in job.pieces(reader_of(int(sys.argv[1]))):
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
    except GatewayError as error:
        sys.stderr.buffer.write(msgspec.json.encode((type(error).__name__, error.detail)))
        return REFUSED
    except BrokenPipeError:  # nobody wants it any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that it can be flushed at the end
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
