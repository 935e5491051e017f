"""The users of the seeded world: who they are, and when they were last seen."""

from typing import NamedTuple

ORGANISATIONS = ("Analytical Engines", "Langley Flight Office", "Erlangen School")

NEVER = None


class Person(NamedTuple):
    """One of them. `seen` is how many days ago they logged in."""

    username: str
    name: str
    organisation: str
    time_zone: str
    seen: float | None
    has_address: bool = True


_ENGINES, _LANGLEY, _ERLANGEN = ORGANISATIONS

# Some were here today and some not for weeks, or never: the daily reminder finds about half of them.
PEOPLE = (
    Person("admin", "Charles Babbage", _ENGINES, "Europe/London", 0.1),
    Person("ada", "Ada Lovelace", _ENGINES, "Europe/London", 0.2),
    Person("alan", "Alan Turing", _ENGINES, "Europe/London", 3.4),
    Person("grace", "Grace Hopper", _ENGINES, "America/New_York", 0.6),
    Person("joan", "Joan Clarke", _ENGINES, "Europe/London", 5.1),
    Person("konrad", "Konrad Zuse", _ENGINES, "Europe/Berlin", 1.3),
    Person("edsger", "Edsger Dijkstra", _ENGINES, "Europe/Amsterdam", 12.7),
    Person("hedy", "Hedy Lamarr", _ENGINES, "America/Los_Angeles", NEVER),
    Person("katherine", "Katherine Johnson", _LANGLEY, "America/New_York", 0.4),
    Person("dorothy", "Dorothy Vaughan", _LANGLEY, "America/New_York", 2.2),
    Person("mary", "Mary Jackson", _LANGLEY, "America/New_York", 4.8),
    Person("wang", "Wang Zhenyi", _LANGLEY, "Asia/Shanghai", 0.9),
    Person("srinivasa", "Srinivasa Ramanujan", _LANGLEY, "Asia/Kolkata", 8.5),
    Person("yutaka", "Yutaka Taniyama", _LANGLEY, "Asia/Tokyo", NEVER),
    Person("emmy", "Emmy Noether", _ERLANGEN, "Europe/Berlin", 0.3),
    Person("sophie", "Sophie Germain", _ERLANGEN, "Europe/Paris", 6.6),
    Person("leonhard", "Leonhard Euler", _ERLANGEN, "Europe/Zurich", 1.1),
    Person("kurt", "Kurt Gödel", _ERLANGEN, "Europe/Vienna", 20.4, has_address=False),
    Person("shakuntala", "Shakuntala Devi", _ERLANGEN, "Asia/Kolkata", 30.2),
    Person("maryam", "Maryam Mirzakhani", _ERLANGEN, "Asia/Tehran", NEVER),
)

ADMIN = "admin"
HAS_ENOUGH_REMINDERS = "dorothy"
"""Who has unsubscribed from them."""
