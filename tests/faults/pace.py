"""Settings under which a fault is over within seconds, where in production it takes minutes."""

QUICK = {
    "OUTBOX_DRAIN_SECONDS": "1",
    # Half of it, in which a chunk of some twenty mails must have been sent, outlives a machine under load.
    "OUTBOX_LEASE_SECONDS": "4",
    "SMTP_DOT_TIMEOUT": "2",
    "OUTBOX_RETRY_BASE_SECONDS": "0.5",
    "OUTBOX_RETRY_MAX_SECONDS": "2",
}
