"""Container images' layers on the node before the pod: fetched, checked, unpacked, and left for the kubelet's own pull to find.

    names descriptors challenges logins chains leasing plan   pure: what is what, what to do next
    registry layers                                           the registry, as an origin of the house's engine
    containerd/                                               containerd's socket: leases, content, snapshots
    fetching stager pulls                                     effects: bytes in, layers unpacked, out of a pull's way

Invariant: no image record and no manifest ever enters containerd from here, so that a pod's own pull still asks the registry
with its own credentials; and no snapshot is committed under a chain ID unless its diff ID and its parent are the config's.
"""
