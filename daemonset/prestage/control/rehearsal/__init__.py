"""The planner played forward without staging anything: `prestage plan --dry-run`, on a file or on a cluster. docs/planning.md."""
