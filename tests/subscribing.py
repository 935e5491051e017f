"""Settings with subscriptions, and what is in a mail's headers."""

from typing import Any

from outbox.settings import Settings

KEY = "a-signing-key-of-32-characters-x"
OLD_KEY = "an-older-signing-key-of-32-chars"
SUBSCRIBED: dict[str, Any] = {
    "outbox_subscriptions": "news,product-updates",
    "outbox_unsubscribe_url": "https://shop.example/unsubscribe",
    "outbox_signing_keys": KEY,
}


def with_subscriptions(**values: Any) -> Settings:
    return Settings.load(**(SUBSCRIBED | {"smtp_from_email": "Shop <shop@example.com>"} | values))
