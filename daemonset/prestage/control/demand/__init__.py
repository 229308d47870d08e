"""From what runs and waits in the cluster to demand: what, where it may run, how sure."""
