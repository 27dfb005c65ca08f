"""Parts of `scripts/transfer`."""
