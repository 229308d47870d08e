"""`python -m prestage.cacher.cli` is `prestage`."""

from prestage.cacher.cli import main

main()
