"""containerd by its socket: what staging asks of it, in its own words and errors of the house. No decision is made here."""
