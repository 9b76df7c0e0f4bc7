"""The paper: its numbers and figures, and runs beside them."""
