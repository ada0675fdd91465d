"""Sweeps: runs that differ in a few fields and answer one question together."""
