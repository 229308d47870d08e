"""The leader: from demand to NodeCaches, and what became of it to the statuses that people read."""
