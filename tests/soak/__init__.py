"""Our own load generator against the server: verified blocks under kills, resets and a grow."""
