"""Cron schedules, time zones and windows as moments. Pure: seconds since the epoch in and out, no clock of its own."""
