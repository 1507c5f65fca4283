"""The companion of ``hasp``: models, training and evaluation over parts."""
