"""Each file is a program that sends mail in one way: `PYTHON -m benchmarks.contenders.NAME COMMAND ...`.

Its surroundings are environment variables: DATABASE_URL, REDIS_URL, SMTP_HOST, SMTP_PORT, PROCESSES (worker processes),
CONNECTIONS (SMTP connections in all; empty: what its documentation advises), PROFILE (where a file has several ways)
and TMPDIR, which is its alone and stays from its first command to its last.

    prepare                     create the tables
    fill COUNT BYTES            put mails on record that are due now, and send none
    enqueue COUNT BYTES one|bulk|templated   as an application would; prints {"seconds": of the enqueueing alone}
    work                        deliver what is due and what comes, until SIGTERM; prints `ready` when it can
    trickle COUNT PAUSE         beside a `work`: a commit each PAUSE seconds; prints {"committed": [time.monotonic()]}
"""
