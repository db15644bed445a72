"""Stores: the places where threads are kept, side by side. Each keeps the contract in `holdfast.ports.stores`."""
