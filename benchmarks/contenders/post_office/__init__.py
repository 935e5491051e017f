"""django-post_office, in three ways of its README.

PROFILE=default: `send_queued_mail` with one process, batches of 100, five threads, every delivery logged.
PROFILE=tuned: what it offers to those who want speed: a process per core, batches of 1,000, no log.
PROFILE=celery: the defaults, and "emails are sent immediately after they have been queued", by a Celery worker.

For the first two, the README has cron start the command once a minute. Here it is called again and again in one
process, at once while there is mail and each second while there is none: Django starts once, and nobody waits for the
minute. That favours it.
"""
