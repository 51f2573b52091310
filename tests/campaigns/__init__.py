"""Campaigns: every case of a kind, run with one command whose result is committed."""
