"""An iSCSI initiator written from the RFCs alone, sharing nothing with the product.

Plain sockets, one thread, every wait bounded. It can behave (`Session`) and misbehave (`Connection.send_raw`).
"""
