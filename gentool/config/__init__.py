"""Models as files say them: checked, frozen."""
