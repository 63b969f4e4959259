"""What members of Redash's responses may be: far more than Redash sends, and little enough to be kept and checked."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from gateway.model import FIRST_GATEWAY_RESULT_ID

Id = Annotated[int, msgspec.Meta(ge=0, lt=FIRST_GATEWAY_RESULT_ID)]
"""Of an object in Redash; from a limit on, ids are the gateway's own."""

SHORT: Final = "[ -~]{0,64}"

Short = Annotated[str, msgspec.Meta(pattern=f"^{SHORT}$")]
"""A time or a hash, in ASCII: every stored entry has some, and is counted with so much memory."""

NOT_SUCH: Final = (msgspec.DecodeError, RecursionError)
"""What msgspec raises for what is not expected; the latter for more levels than it can take, skipped members
included: 1,000 on Python 3.11, some 10,000 on later ones."""
