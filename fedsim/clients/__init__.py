"""What happens on the clients: local training by two engines, local optimizers, gradient corrections."""
