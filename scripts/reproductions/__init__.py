"""Published results, each a module that says what is run and what it is held against."""
