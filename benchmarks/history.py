"""The mail of ninety days, made by SQL: what lies in the tables beside the mail that is due."""

import psycopg

from benchmarks.bench import Bench
from benchmarks.mails import sender

_AT_A_TIME = 100_000

# Spread as it would be: nine in ten are the only attempt of a mail that went at once, a few died or were cancelled. Of
# bodies, the last thirty days are there. A fifth as many recipients as mails.
_CONTENTS = f"""
    INSERT INTO email_contents (id, message_id, date, sender, to_header, subject, text, html, headers, sensitive, size,
        created_at, purged_at)
    SELECT n, '<' || md5(n::text) || '@bench.example.com>', born, '{sender}', recipient, subject,
        CASE WHEN fresh THEN 'Order ' || n || ' has left our warehouse and will be there soon.' END,
        CASE WHEN fresh THEN '<p>' || repeat(md5(n::text) || ' ', 20) || '</p>' END,
        '{{}}', false, 2000, born, CASE WHEN NOT fresh THEN born + interval '30 days' END
    FROM mails
"""
_QUEUE = """
    INSERT INTO email_queue (id, content_id, recipient, kind, subject, status, priority, next_attempt_at, attempts,
        max_attempts, claims, on_uncertain, last_code, dead_reason, created_at, sent_at, finalized_at, relay)
    SELECT n, n, recipient, 'to', subject, status, n %% 3, born, tries, 5, tries, 'retry',
        CASE status WHEN 'sent' THEN 250 WHEN 'dead' THEN 550 END, CASE WHEN status = 'dead' THEN 'rejected' END,
        born, CASE WHEN status = 'sent' THEN settled END, settled, 'relay.example.com:25'
    FROM mails
"""
_ATTEMPTS = """
    INSERT INTO email_attempts (email_id, number, started_at, finished_at, outcome, stage, code, reply, relay, worker)
    SELECT n, number, settled - interval '1 second', settled,
        CASE WHEN number < tries THEN 'deferred' WHEN status = 'sent' THEN 'sent' ELSE 'rejected' END, 'dot',
        CASE WHEN number < tries THEN 451 WHEN status = 'sent' THEN 250 ELSE 550 END, '2.0.0 Ok: queued as 4F2B',
        'relay.example.com:25', 'worker:1'
    FROM mails, generate_series(1, tries) AS number WHERE status <> 'cancelled'
"""
_MAILS = """
    WITH mails AS (
        SELECT n, 'user-' || n * 7919 %% greatest(%(rows)s / 5, 1) || '@example.com' AS recipient,
            'Your order ' || n || ' is on its way to you' AS subject,
            now() - interval '90 days' * (1 - n::float / %(rows)s) - interval '1 minute' AS born,
            now() - interval '90 days' * (1 - n::float / %(rows)s) - interval '58 seconds' AS settled,
            n > %(rows)s * 2 / 3 AS fresh,
            CASE WHEN n %% 50 = 0 THEN 'dead' WHEN n %% 101 = 0 THEN 'cancelled' ELSE 'sent' END AS status,
            CASE WHEN n %% 10 = 0 THEN 2 ELSE 1 END AS tries
        FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n)
"""


def fill_history(bench: Bench, database: str, rows: int) -> None:
    """Put as many final mails into an empty database."""
    with (
        psycopg.connect(bench.servers.url(database), autocommit=True) as connection,
        bench.console.status("history ...") as status,
    ):
        # That each row has the one it refers to is plain from the numbers; to look each up would double the time.
        connection.execute("SET session_replication_role = replica")
        connection.execute("SET synchronous_commit = off")
        for first in range(1, rows + 1, _AT_A_TIME):
            last = min(first + _AT_A_TIME - 1, rows)
            for insert in (_CONTENTS, _QUEUE, _ATTEMPTS):
                connection.execute(_MAILS + insert, {"rows": rows, "first": first, "last": last})
            status.update(f"history: {last:,} of {rows:,} mails ...")
        for table in ("email_contents", "email_queue"):
            connection.execute(f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), {rows})")
        # At once, rather than by the autovacuum that so many rows would set off while something is measured.
        connection.execute("VACUUM (ANALYZE) email_contents, email_queue, email_attempts")
