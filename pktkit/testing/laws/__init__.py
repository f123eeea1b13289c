"""The laws of the contract kit: what each says, and one module of tests per kind of component."""

from pktkit.testing.laws.catalogue import LAWS, LAWS_VERSION, Law

__all__ = ["LAWS", "LAWS_VERSION", "Law"]
