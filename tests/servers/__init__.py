"""Real and hostile servers that tests start on loopback: each on a free port, stopped by its own handle."""
