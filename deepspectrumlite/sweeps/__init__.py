"""Many recipes on the same recordings: which settings are tried, where they train, what is best."""
