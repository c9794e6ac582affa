"""Speed and size on this board, in process and over HTTP, alone or beside another server."""
