"""Training and evaluation of the estimate network; needs `pip install 'rtlit[train]'`."""
