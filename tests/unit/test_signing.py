"""DKIM: what the settings must say, and that a verifier that knows only DNS believes the mail, and no altered one."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import dkim
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from outbox import fence
from outbox.errors import SettingsError
from outbox.settings import Settings
from outbox.signing import HEADERS, Signer
from tests.dns import Resolver
from tests.unit.test_attachments import MAIL

SUBSCRIPTION = {
    "List-Unsubscribe": "<https://shop.example/unsubscribe/t0ken>",
    "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
    "List-Id": "<news.shop.example>",
    "Auto-Submitted": "auto-generated",
}
MESSAGE = replace(MAIL, headers=SUBSCRIPTION, html="<p>\u00dc</p>" * 3000).as_bytes()
"""Its longest line is 76 columns, its headers are folded."""
