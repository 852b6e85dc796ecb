"""Limits of the adaptation: the trust region and the gate."""
