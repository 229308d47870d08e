"""Pods on their way in: volume, mounts and environment are added, mistakes refused with what to write instead."""
