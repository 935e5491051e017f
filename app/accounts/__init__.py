"""Who uses the application: accounts, logins, tokens, preferences."""
