"""Our own HTTP/1.1 client: bodies into the caller's buffers, proxies, own CA, IPv6. Knows nothing of origins or blobs."""
