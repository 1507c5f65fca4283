"""What torch lacks for training over parts on many ranks: errors that all ranks raise, and gradients of single rows."""
