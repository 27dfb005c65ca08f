"""Parts of `scripts/finetune`."""
