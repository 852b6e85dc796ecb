"""Ray: starting it, and the actors that pretrain."""
