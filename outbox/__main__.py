"""`python -m outbox VERB`, as `outbox VERB` where the package is installed."""

from outbox.cli import main

main(prog_name="outbox")
