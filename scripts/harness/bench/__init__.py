"""CPU systems side by side: the same weights, the same windows, a process each, in turn."""
