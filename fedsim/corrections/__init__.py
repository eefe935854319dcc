"""Local corrections: what a federated algorithm adds to each client's gradient."""
