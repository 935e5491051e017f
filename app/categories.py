"""The categories of the application's mail that its users can unsubscribe from. All other mail is transactional."""

NEWS = "news"
REMINDERS = "reminders"
"""Daily: quizzes wait for you."""
REPORTS = "reports"
"""Monthly: how your quizzes went."""
SUMMARIES = "summaries"
"""Weekly: how your projects stand."""

SUBSCRIPTIONS = (NEWS, REMINDERS, REPORTS, SUMMARIES)

TASKS = "tasks"
"""Of tasks that are somebody's to do: changed, due, overdue. Part of the work, so nobody unsubscribes from it."""
