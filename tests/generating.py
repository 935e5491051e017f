"""What Hypothesis makes in several tests: addresses and identifiers, put together from pieces.

`from_regex` would make the same ones, and draws character by character: it took most of the time of these tests.
"""

from string import ascii_letters, ascii_lowercase, digits

from hypothesis import strategies as st

_LOWER = ascii_lowercase + digits


def pieces(characters: str, most: int, least: int = 1) -> st.SearchStrategy[str]:
    """Of `least` to `most` of these characters."""
    return st.text(characters, min_size=least, max_size=most)


def message_ids(most: int) -> st.SearchStrategy[str]:
    """With at most so many characters on each side."""
    side = pieces(f"{_LOWER}.", most)
    return st.builds("<{}@{}>".format, side, side)


addresses = st.builds(
    "{}{}@{}.example".format,
    pieces(f"{_LOWER}+_-", 32),
    st.just("") | pieces(_LOWER, 31).map(".{}".format),
    pieces(_LOWER, 40),
)
inline_ids = st.builds("{}@{}".format, pieces(f"{_LOWER}.", 20), pieces(ascii_lowercase, 10))
header_names = pieces(f"{ascii_letters}{digits}-", 74).map("X-{}".format)
"""As long as they may be."""
header_names_of_words = st.builds(
    "X-{}{}".format,
    pieces(ascii_letters + digits, 1),
    st.just("")
    | st.builds("{}{}".format, pieces(f"{ascii_letters}{digits}-", 20, least=0), pieces(ascii_letters + digits, 1)),
)
"""With no hyphen at either end."""
