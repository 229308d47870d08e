"""The `images` container: what a NodeCache says of images, on this node's containerd.

sync       NodeCache in, status out            deciding    plan and shelf in, actions out (pure)
staging    one image, by what the broker gives reporting   how it stands, as the API has it (pure)
handed     a registry asked with what the broker gave, and again once that is refused
tally      what it did (pure)                  metrics     that and how it stands, for Prometheus
"""
