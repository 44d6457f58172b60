"""libiscsi's conformance program against the server under test."""
