"""The paper's numbers and figures, and their reproduction by runs."""
