"""django-mailer, by `runmailer_pg`: on PostgreSQL, its documentation's way to send "as soon as" mail is queued.

The command sends by one thread, one mail after the other, "which is deliberate". Where CONNECTIONS is set, there are as
many processes of it. Its documentation has several workers, on different machines, kept apart by locks in the database;
for several on one machine the lock file is switched off, as it says one can.

`MAILER_EMAIL_LOG_MESSAGE_DATA = False` is its advice for performance: a sent mail's content is not kept.
"""
