"""Backdoor isolation: which representation of a pair isolates a planted behaviour, and how well."""
