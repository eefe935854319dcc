"""fedsim: a federated-learning simulator for recurrent models that trains whole cohorts as stacked tensors."""

__version__ = "0.1.0"
