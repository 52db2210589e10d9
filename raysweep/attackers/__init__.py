"""The attacker ladder, one rung a file."""
