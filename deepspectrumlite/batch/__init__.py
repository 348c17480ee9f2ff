"""Corpora bigger than one machine: a manifest in, Parquet parts out, by many workers."""
