"""Where tensors' bytes live: address ranges on the host, device memory behind a driver, and how much of each may be taken."""
