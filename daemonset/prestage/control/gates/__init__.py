"""Scheduling gates, only where they help; and the soft preference for warm nodes."""
