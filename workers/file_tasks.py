"""Pictures: thumbnails, and what is cleaned up."""
