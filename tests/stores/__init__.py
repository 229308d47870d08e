"""What the store's tests share: making artifacts, disks that die, lie or fail, power cuts, and one oracle of the invariants."""
