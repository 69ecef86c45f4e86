"""`gentool bench`: how fast a model runs on this machine."""
