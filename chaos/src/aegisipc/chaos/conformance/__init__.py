"""Does the model of the server do what a real one does? The same scripts run on both, and what they saw is
compared.
"""
