"""How fast mail is queued and delivered, beside peers and limits, in the open."""
