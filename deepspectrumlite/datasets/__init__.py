"""Readers of corpora: the folder as its owners hand it out becomes a table of recordings."""
