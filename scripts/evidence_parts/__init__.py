"""The parts of scripts/evidence: steps that are done once, the rows, and the table."""
