"""The one place that talks to the API server: requests, list and watch, leases, events. Knows nothing of artifacts or plans."""
