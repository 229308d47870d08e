"""The broker: resolves refs with their namespace's own credentials, and hands nodes the narrowest thing that gets bytes.

identity     who asks: TokenReview, node claim                     walls       what a namespace may name (pure)
sources      ref or StagedModel -> what to resolve, from where     credentials Secrets, and tokens of service accounts
opening      the cacher's origins under our rules                  records     Artifact objects; which template got which
shelf, view  the cluster as it was seen last                       claims      one resolves at a time, over all replicas
image_places, images             the same for images: registries, logins, what a node pulls with
resolving, handing, mounting     the questions of api/brokerage.py      server, health, app, cli
"""
