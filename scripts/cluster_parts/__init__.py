"""Parts of `scripts/cluster`."""
