"""Phones and browsers of other people as parties of a call, and a plain phone of ours to talk with them."""
