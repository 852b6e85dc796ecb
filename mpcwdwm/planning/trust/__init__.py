"""Bounds on what a plan is believed: the trust region and the gate."""
