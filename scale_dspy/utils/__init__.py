"""Small helpers that know nothing of SCALE."""
