"""procrastinate: a job a mail, whose arguments are the mail, and a task that sends it by smtplib.

As many workers as there are cores, one job at a time in each: its default. Where CONNECTIONS is set they share it by
`concurrency`. A thread keeps its connection from mail to mail, which a tutorial's task would not: that favours it.
"""
