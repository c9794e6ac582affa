"""How fast and how large it all is on this board, in process and over HTTP, alone or beside another server."""
