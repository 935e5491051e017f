"""Uploaded pictures, their thumbnails, and what is cleaned up."""
