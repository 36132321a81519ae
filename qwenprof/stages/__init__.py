"""The experiments, one file each; every one excludes one suspect."""
