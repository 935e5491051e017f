"""django-post_office, twice.

PROFILE=default is its README: `send_queued_mail` with one process, batches of 100, five threads, every delivery logged.
PROFILE=tuned is what the same page offers to those who want speed: a process per core, batches of 1,000, no log.

The README has cron start the command once a minute. Here it is called again and again in one process, at once while
there is mail and each second while there is none: Django starts once, and nobody waits for the minute. That favours it.
"""
