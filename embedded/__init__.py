"""The embedded default: what `./start_services.sh` runs where no Redis, relay or supervisor is configured.

For a first look and for development. Nothing in `outbox`, `app` or `workers` knows that it is there.
"""
