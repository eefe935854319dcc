"""Tables, intervals and pictures of runs side by side."""
