"""Why there is nothing to see."""


class StartError(Exception):
    """Why nothing was started, or not everything, in a sentence that says what to do; perhaps with the end of a log."""
