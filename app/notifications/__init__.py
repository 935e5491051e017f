"""What a user is told in the page: stored, and pushed to the pages that are open."""
