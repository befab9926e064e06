"""The checks of the kit, a function each: given a `Subject` it returns a detail, or raises `Failed` or `Skipped`."""
