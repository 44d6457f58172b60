"""Cases that our own Python initiator plays against the server under test."""
