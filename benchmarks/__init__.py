"""`python -m benchmarks`: replicate next to git and `cp -r`, measured on this machine in one run. See README.md."""
