"""What every mail to a user knows of them."""

from app.accounts.models import User
from app.accounts.zones import zone_of


def about(user: User) -> dict[str, str]:
    """Their name, and the zone that a template shows times in."""
    return {"name": user.name, "time_zone": str(zone_of(user.time_zone))}
