"""Projects, their tasks, and the mails about them."""
