"""What a tutorial on Flask, SQLAlchemy and Celery builds: a table of mails, and a task for each.

The task loads the row, composes the mail with `emails`, sends it over a connection of its own, and commits that it was
sent. One Celery worker with a process per core, and its defaults. Where CONNECTIONS is set: a worker per core, with
threads (`-P threads`), because a process for each connection would take 50 MB.
"""
