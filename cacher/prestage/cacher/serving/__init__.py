"""Bytes out to peers: blobs and journaled pieces over HTTP/1.1, and the source that fetches them. Protocol: docs/serving.md."""
