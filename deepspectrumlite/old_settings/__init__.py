"""Settings of the system published with Amiriparian et al. 2022, for this one."""
