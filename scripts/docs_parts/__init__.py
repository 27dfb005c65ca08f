"""The parts of scripts/docs: staging and building the book, and running its snippets."""
