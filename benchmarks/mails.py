"""The mails of every run: the same for all who send them, each different from the next."""

sender = "bench@example.com"


def recipient(number: int) -> str:
    return f"user-{number}@example.com"


def subject(number: int) -> str:
    return f"Your order {number:08} is on its way to you"


def text(number: int) -> str:
    return f"Order {number:08} left our house; look for it in three days."


def html(number: int, size: int) -> str:
    paragraph = f'<p style="color:#333;margin:0 0 1em">Order {number:08}, and a word about it.</p>\n'
    return (paragraph * (size // len(paragraph) + 1))[: size - 1] + "\n"
