"""Privacy mechanisms for Upright, one file each."""
