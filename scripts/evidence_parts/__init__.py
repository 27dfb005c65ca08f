"""The parts of scripts/evidence: resumable steps, rows, and tables."""
