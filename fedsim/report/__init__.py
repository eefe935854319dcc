"""One HTML file that says what was run, what came of it, and how to repeat it."""
