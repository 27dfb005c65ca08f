"""The parts of `scripts/setup`, one module per kind."""
