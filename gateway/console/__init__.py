"""What operators see: the admin socket and the logs. Nothing here decides."""
