"""Staging: make this store hold an artifact. The one place where origins, the engine and the store meet.

    resolve -> reuse what is here -> reserve -> fetch -> verify -> publish blobs -> bind -> publish the view -> remember the ref

Every step is idempotent and durable before the next: a stage that was killed anywhere is run again and goes on.

    wishes    what is asked for, and what came of it
    stager    who asks: several callers of one artifact are one transfer
    run       one transfer, step by step
    claims    several artifacts that want one file at once fetch it once
"""

from prestage.cacher.staging.stager import Stager
from prestage.cacher.staging.wishes import Staged, Watcher, Wish

__all__ = ["Staged", "Stager", "Watcher", "Wish"]
