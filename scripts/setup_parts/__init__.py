"""What `scripts/setup` fetches and builds, one module for each kind of thing."""
