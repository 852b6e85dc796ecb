"""What it will take: time, GPU-hours and disk, from the measured speed of this machine."""
