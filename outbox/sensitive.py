"""What is different when `queue_email` is told that a mail is sensitive: what it says is sealed as soon as it is known,
before anything is written, and no error repeats any of it.
"""

import functools
import inspect
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ParamSpec

from outbox.attachments import Attachment
from outbox.errors import InvalidEmail, InvalidTemplate
from outbox.sealing import Safe, lock, new_key
from outbox.settings import MAKE_A_KEY

if TYPE_CHECKING:
    from collections.abc import Callable

    from outbox.draft import Draft

SHOWN = "(sensitive)"
"""The subject, wherever one is shown."""

HIDDEN = "(hidden)"
"""In place of the value that an error is about."""

_SEE_MORE = "and what is hidden, for the mail is sensitive: queue made-up values with sensitive=False to see it"

_IN_A_TEMPLATE = re.compile(r"[\w./-]+, line \d+(?=: )")

_P = ParamSpec("_P")


def discreet(draft: "Callable[_P, Draft]") -> "Callable[_P, Draft]":
    """`draft`, whose `sensitive=True` now makes a sealed mail.

    An error comes without the one that caused it and without the value, whatever the argument: addresses and labels are
    no secrets, but who mixes up two arguments has put the secret there.
    """
    signature = inspect.signature(draft)

    @functools.wraps(draft)
    def drafted(*args: _P.args, **kwargs: _P.kwargs) -> "Draft":
        if not kwargs.get("sensitive"):
            return draft(*args, **kwargs)
        settings = signature.bind(*args, **kwargs).arguments["settings"]
        safe = Safe.of(settings)
        if safe is None:
            raise InvalidEmail(
                "sensitive", True, f"set OUTBOX_ENCRYPTION_KEYS, or it cannot be encrypted: {MAKE_A_KEY}"
            )
        try:
            return _sealed(draft(*args, **kwargs), safe)
        except InvalidTemplate as error:
            hidden = _hidden_template(error)
        except InvalidEmail as error:
            hidden = type(error)(error.field, HIDDEN, error.problem)
        except Exception as error:  # noqa: BLE001 - raised again below, where it drags nothing behind it
            hidden = InvalidEmail("mail", HIDDEN, f"{type(error).__name__}, {_SEE_MORE}")
        raise hidden

    return drafted


def _hidden_template(error: InvalidTemplate) -> InvalidEmail:
    """What a template stumbles over may be a value; where it does, is not."""
    where = _IN_A_TEMPLATE.match(error.problem)
    if where is None:
        return InvalidTemplate(
            error.field, HIDDEN, f"there is something wrong with it or with its context, {_SEE_MORE}"
        )
    return InvalidTemplate(error.field, error.value, f"{where[0]} does not suit its context, {_SEE_MORE}")


def _sealed(plain: "Draft", safe: Safe) -> "Draft":
    key = new_key()
    said = {name: plain.content[name] for name in ("subject", "text", "html", "headers")}
    files = [
        {"filename": file.filename, "content_type": file.media_type, "inline_id": file.inline_id}
        for file in plain.attachments
    ]
    fingerprints = safe.fingerprints(plain.content["payload_hash"].encode())
    nothing: dict[str, Any] = {"subject": SHOWN, "text": None, "html": None, "headers": {}}
    sealed = {
        "sealed": safe.seal(said | {"files": files, "files_key": key}),
        "sensitive": True,
        "payload_hash": fingerprints[0],
    }
    return replace(
        plain,
        content=plain.content | nothing | sealed,
        row=plain.row | {"subject": SHOWN},
        attachments=[_locked(number, file, key) for number, file in enumerate(plain.attachments)],
        fingerprints=fingerprints,
    )


def _locked(number: int, file: Attachment, key: str) -> Attachment:
    """Under a name and a type that say nothing: `payslip-ada.pdf` says enough."""
    if not isinstance(file.data, bytes):
        raise InvalidEmail(
            f"attachments[{number}]",
            HIDDEN,
            "a file that was stored before is in the database in clear: give its bytes",
        )
    return Attachment(f"attachment {number + 1}", lock(file.data, key), "application/octet-stream")
