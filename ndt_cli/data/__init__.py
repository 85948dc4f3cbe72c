"""Recordings: reading and writing spike files, synthetic sets, splitting, rebinning, chopping."""
