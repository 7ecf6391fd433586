"""The user's ASGI application, made ready for one replica."""
