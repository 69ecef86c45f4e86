"""Generation: text in, text out. Requests, and the methods of an open model."""
