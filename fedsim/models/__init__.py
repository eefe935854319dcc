"""What is trained: recurrent models, their plain reference modules and the client-stacked layers."""
