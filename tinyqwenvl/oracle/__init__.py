"""The spec oracle: reference tensors per stage, a port's first wrong stage, and its bug."""
