"""The parts of scripts/converters."""
