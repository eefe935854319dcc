"""What a curious server learns of the clients' samples."""
